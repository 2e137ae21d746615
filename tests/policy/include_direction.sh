#!/usr/bin/env bash
# Includes point one way: trainer -> optim -> layers -> comm -> comm/base. configs is a leaf that any but comm may
# read; nothing includes tests. Quoted includes start at the root of the tree.
# usage: include_direction.sh ROOT
set -euo pipefail
cd "$1"

# Folders that a file in FOLDER may include from, as a regular expression.
allowed() {
  case $1 in
    comm/base/*) echo 'comm/base/' ;;
    comm/*) echo 'comm/' ;;
    configs/*) echo 'configs/|comm/base/' ;;
    layers/*) echo 'layers/|comm/|configs/' ;;
    optim/*) echo 'optim/|layers/|comm/|configs/' ;;
    trainer/*) echo 'trainer/|optim/|layers/|comm/|configs/' ;;
  esac
}

checked=0
offences=0
while IFS= read -r file; do
  checked=$((checked + 1))
  wrong=$(grep -nE '^[[:space:]]*#[[:space:]]*include[[:space:]]*"' "$file" | grep -vE "\"($(allowed "$file"))" || true)
  while IFS= read -r line; do
    [[ -n $line ]] || continue
    echo "$file:$line: not allowed here; allowed: $(allowed "$file" | tr '|' ' ')"
    offences=$((offences + 1))
  done <<< "$wrong"
done < <(find comm configs layers optim trainer -type f \
           \( -name '*.h' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh' \) | sort)

echo "$checked files, $offences includes against the direction"
(( checked > 0 && offences == 0 ))
