#!/usr/bin/env bash
# Each header compiles alone: it includes what it needs. A header that some source file includes before anything
# else has shown that in the build; the others are compiled here.
# usage: headers_self_contained.sh ROOT COMPILER FLAGS...
set -euo pipefail
cd "$1"
shift

roots=(comm configs layers optim trainer tests)
mapfile -t headers < <(find "${roots[@]}" -type f -name '*.h' | sort)
proven=$(find "${roots[@]}" -type f -name '*.cc' -print0 |
           xargs -0 awk '/^[ \t]*#/ { if (/^#include "/) { split($0, part, "\""); print part[2] }; nextfile }' | sort -u)
mapfile -t unproven < <(printf '%s\n' "${headers[@]}" | grep -vxFf <(echo "$proven"))

status=0
(( ${#unproven[@]} == 0 )) || printf '%s\0' "${unproven[@]}" | xargs -0 -r -P "$(nproc)" -I{} bash -c '
  "${@:2}" -fsyntax-only -fopenmp -w -include "$1" -x c++ /dev/null || { echo "$1:1: is not self-contained"; exit 1; }
' check {} "$@" || status=1

echo "${#headers[@]} headers, ${#unproven[@]} of them compiled alone"
(( ${#headers[@]} > 0 && status == 0 ))
