#!/usr/bin/env bash
# The policy scripts pass a small tree that keeps the rules, and refuse it after each offence.
# usage: scripts_catch_offences.sh COMPILER
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
compiler=$1
tree=$(mktemp -d)
trap 'rm -rf "$tree" "$tree.log"' EXIT

fresh_tree() {
  rm -rf "${tree:?}"/*
  mkdir -p "$tree"/{comm/base,configs,layers,optim,trainer,tests,launch}
  printf '#pragma once\n#include "comm/base/b.h"\n' > "$tree/comm/a.h"
  printf '#pragma once\n' > "$tree/comm/base/b.h"
  printf '#include "layers/c.h"\n#include "comm/a.h"\n#include "configs/run.pb.h"\n' > "$tree/optim/c.cc"
  printf '#!/usr/bin/env bash\necho fine\n' > "$tree/launch/run.sh"
  chmod +x "$tree/launch/run.sh"
}

run_rule() {
  if [[ $1 == headers_self_contained ]]; then
    "$here/$1.sh" "$tree" "$compiler" -std=c++20 -I"$tree" > "$tree.log" 2>&1
  else
    "$here/$1.sh" "$tree" > "$tree.log" 2>&1
  fi
}

failures=0
# refuses RULE FILE CONTENT: with CONTENT in FILE, the script of RULE fails and names FILE.
refuses() {
  fresh_tree
  if ! run_rule "$1"; then
    echo "$1: refuses a tree that keeps the rules:"
    cat "$tree.log"
    failures=$((failures + 1))
  fi
  printf '%b' "$3" > "$tree/$2"
  if run_rule "$1" || ! grep -q "$2" "$tree.log"; then
    echo "$1: does not catch, by name, this in $2: $3"
    cat "$tree.log"
    failures=$((failures + 1))
  fi
}

refuses include_direction layers/x.cc '#include "optim/c.h"\n'
refuses include_direction comm/x.h '#include "configs/run.pb.h"\n'
refuses include_direction comm/base/x.h '#include "comm/a.h"\n'
refuses include_direction configs/x.cc '#include "layers/c.h"\n'
refuses include_direction trainer/x.cc '  #  include "tests/support/s.h"\n'
refuses include_direction trainer/x.cc '#include "../comm/a.h"\n'
refuses no_feature_macros layers/x.h '#pragma once\n#ifdef HAVE_CUDA\n#endif\n'
refuses no_feature_macros layers/x.h '#pragma once\n#  if FEATURE\n#endif\n'
refuses no_feature_macros layers/x.h 'int x;\n'
refuses shell_scripts_parse launch/run.sh '#!/usr/bin/env bash\nif true; then\n'
refuses shell_scripts_parse launch/other.sh '#!/usr/bin/env bash\necho not executable\n'
refuses forbidden_words layers/x.cc '// TODO: later\n'
refuses forbidden_words launch/run.sh 'cd /home/someone/conclave\n'
refuses headers_self_contained layers/x.h '#pragma once\nstd::string missing_include();\n'

echo "$failures failures"
(( failures == 0 ))
