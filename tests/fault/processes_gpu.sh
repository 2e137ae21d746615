#!/usr/bin/env bash
# Ranks that wait in NCCL (emulated GPUs): for one that doesn't come within run.timeout, and after a connection is lost.
# usage: processes_gpu.sh BINARY SOURCE_DIR RANKS PROGRAM
source "${BASH_SOURCE%/*}/processes_common.sh"

# lose SCENARIO SECONDS: rank 1 does what SCENARIO says.
lose() {
  local job status
  timeout --kill-after=5 60 "$source_dir/launch/mpirun.sh" 2 "$program" "$1" > "$output" 2>&1 &
  job=$!
  ends_within "$2" "$1"
  (( status == 1 )) || fail "exit code $status of $1, expected 1"
}

lose computes 30
says_once "conclave: no answer within run.timeout of 2 s to rank 0"
says 'in all_reduce number 2 of group "world" (rank 0 of 2), 40000 bytes'
says_once "conclave: missing, busy elsewhere since: rank 1 on "
verdict "a rank that leaves others waiting in NCCL" "the watchdog names it; exit 1"

lose loses_its_connection 30
says 'conclave: rank 1: all_reduce number 2 of 40000 bytes in group "world" failed on rank 1 of 2: NCCL: remote process'
verdict "a lost connection between GPUs" "an error names operation, group and rank; exit 1"
