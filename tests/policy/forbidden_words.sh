#!/usr/bin/env bash
# Nothing in the tree is a note to oneself or a path of the machine that it was written on.
# usage: forbidden_words.sh ROOT
set -euo pipefail
cd "$1"

words='\b(TODO|FIXME)\b|(^|[^[:alnum:]_.~-])/(root|home/[a-z])[/[:alnum:]]'
mapfile -t files < <(find . \( -path './build*' -o -path './.git' -o -path ./runs -o -path ./data -o -path ./.cache \
                              -o -path ./tests/policy \) -prune -o -type f -print | sort)
offences=0
while IFS= read -r line; do
  echo "$line"
  offences=$((offences + 1))
done < <(printf '%s\0' "${files[@]}" | xargs -0 grep -nHIE "$words" || true)

echo "${#files[@]} files, $offences offences"
(( ${#files[@]} > 0 && offences == 0 ))
