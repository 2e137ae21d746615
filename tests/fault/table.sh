#!/usr/bin/env bash
# Prints what became of each fault: table.sh VERDICTS, a file of lines "FAULT<tab>VERDICT" that the fault tests wrote.
set -euo pipefail
if [[ ! -s $1 ]]; then
  echo "no fault test has passed"
  exit 0
fi
sort -u "$1" | awk -F '\t' '
  { fault[NR] = $1; verdict[NR] = $2; if (length($1) > width) width = length($1) }
  END {
    printf "%-*s  %s\n", width, "fault", "verdict"
    for (i = 1; i <= NR; ++i) printf "%-*s  %s\n", width, fault[i], verdict[i]
  }'
