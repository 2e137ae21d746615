#!/usr/bin/env bash
# Headers mean the same in every build: no conditional compilation in them, `#pragma once` as their guard. What
# depends on the build is a choice of .cc files.
# usage: no_feature_macros.sh ROOT
set -euo pipefail
cd "$1"

mapfile -t headers < <(find comm configs layers optim trainer tests -type f \( -name '*.h' -o -name '*.cuh' \) | sort)
offences=0
for header in "${headers[@]}"; do
  if grep -nE '^[[:space:]]*#[[:space:]]*(if|ifdef|ifndef|elif|else)\b' "$header" | sed "s|^|$header:|"; then
    offences=$((offences + 1))
  fi
  if ! grep -qx '#pragma once' "$header"; then
    echo "$header:1: has no #pragma once"
    offences=$((offences + 1))
  fi
done

echo "${#headers[@]} headers, $offences with an offence"
(( ${#headers[@]} > 0 && offences == 0 ))
