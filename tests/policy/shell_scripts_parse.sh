#!/usr/bin/env bash
# Every shell script parses, and those with a #! line can be run.
# usage: shell_scripts_parse.sh ROOT
set -euo pipefail
cd "$1"

mapfile -t scripts < <(find . -path './build*' -prune -o -path './.git' -prune -o -type f -print0 |
                         xargs -0 awk 'FNR == 1 { if (/^#!.*(bash|\/sh)/) print FILENAME; nextfile }' | sort)
offences=0
for script in "${scripts[@]}"; do
  bash -n "$script" || offences=$((offences + 1))
  if [[ ! -x $script ]]; then
    echo "$script:1: is not executable"
    offences=$((offences + 1))
  fi
done

echo "${#scripts[@]} scripts, $offences offences"
(( ${#scripts[@]} > 0 && offences == 0 ))
