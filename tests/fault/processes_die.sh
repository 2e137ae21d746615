#!/usr/bin/env bash
# A rank dies in mid-run: the job ends soon, with an exit code that is not 0, nothing stays behind, and the same command
# goes on from the newest checkpoint.
# usage: processes_die.sh BINARY SOURCE_DIR RANKS PROGRAM
source "${BASH_SOURCE%/*}/processes_common.sh"

for case in "KILL 1" "SEGV 0" "ABRT 1"; do
  read -r signal victim <<< "$case"
  run=died_$signal
  start "$run"
  process=$(process_of_rank "$victim")
  [[ -n $process ]] || fail "found no rank $victim; did the run end before?"
  kill "-$signal" "$process"
  ends_within 20 "rank $victim received SIG$signal"  # 5 on an idle machine
  (( status != 0 && status != 75 && status != 78 )) || fail "exit code $status after SIG$signal"
  says "process rank $victim"
  continues "$run"
  verdict "death of a rank by SIG$signal" "the job ends at once, exit code 128 + signal; a restart goes on"
done
