#!/usr/bin/env bash
# Installs what is missing, builds everything in build-test/ with warnings as errors, and runs the tests:
# launch/test.sh [--label LABEL]
# LABEL is unit, distributed, integration, interop, fault, fuzz or policy. Fails if a test fails or if none ran; ends with what was
# skipped and why.
set -euo pipefail
cd "$(dirname "$0")/.."

selection=()
if [[ $# -eq 2 && $1 == --label ]]; then
  selection=(--label-regex "^$2\$")
elif [[ $# -ne 0 ]]; then
  echo "usage: launch/test.sh [--label LABEL]" >&2
  exit 2
fi

launch/setup.sh
cmake --preset release -B build-test -DCONCLAVE_WERROR=ON
cmake --build build-test

# Tests of several ranks take two places, so as many places as cores keeps ranks and threads from crowding each other.
# Idle OpenMP threads sleep instead of spinning where the tests' neighbours need the core.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
status=0
rm -f build-test/fault_verdicts.tsv
ctest --test-dir build-test --output-on-failure --no-tests=error --parallel "$(nproc)" "${selection[@]}" || status=$?

# What became of each fault, if their tests have run.
if [[ -s build-test/fault_verdicts.tsv ]]; then tests/fault/table.sh build-test/fault_verdicts.tsv; fi

# A skipped test says why: GoogleTest on the line after "file:line: Skipped", a script on a line "skipped: why".
awk '
  function skip(what, why) {
    if (!((what, why) in seen)) skipped[++skips] = what ": " (why == "" ? "gave no reason" : why)
    seen[what, why]
  }
  /^[0-9]+\/[0-9]+ Test: /       { test = $3; why = "" }
  reason_follows                 { why = $0; reason_follows = 0 }
  /: Skipped$/                   { reason_follows = 1 }
  /^\[  SKIPPED \] .* ms\)$/     { skip(index(test, $4) ? test : test " " $4, why); why = "" }
  /^skipped: /                   { skip(test, substr($0, 10)) }
  /^Test Passed\.$/              { ++passed }
  END {
    printf "test: %d tests passed, %d skipped\n", passed, skips
    for (i = 1; i <= skips; ++i) print "  skipped " skipped[i]
    if (passed == 0) { print "test: no test ran"; exit 1 }
  }' build-test/Testing/Temporary/LastTest.log || status=1
exit "$status"
