#!/usr/bin/env bash
# Ranks that hang or part ways: within run.timeout + 5 s the job ends with exit code 1, after one report that says who
# waits where and who is missing.
# usage: processes_hang.sh BINARY SOURCE_DIR RANKS PROGRAM
source "${BASH_SOURCE%/*}/processes_common.sh"

# A stopped process says nothing any more: the others read what it noted last.
for victim in 0 1; do
  start "stopped_$victim" run.timeout=3s
  process=$(process_of_rank $victim)
  [[ -n $process ]] || fail "found no rank $victim; did the run end before?"
  kill -STOP "$process"
  ends_within 23 "rank $victim received SIGSTOP"  # 8 on an idle machine
  (( status == 1 )) || fail "exit code $status after SIGSTOP, expected 1"
  says_once "conclave: no answer within run.timeout of 3 s to rank $(( 1 - victim )), step "
  grep --quiet --extended-regexp "^  rank $victim on [^ ]+, step [0-9]+.*(waits|its last).*(all_to_all_v|all_reduce|barrier) \
number [0-9]+ of group \"(world|expert_parallel)\" \(rank $victim of 2\), [0-9]+ bytes; no sign of life" "$output" ||
    fail "no line about rank $victim"
  says_once "conclave: missing, stopped or dead: rank $victim on "
  continues "stopped_$victim"
done
verdict "a stopped rank (SIGSTOP)" "found by the watchdog within run.timeout, named with its last operation; exit 1"

# misbehave SCENARIO SECONDS: the program in which rank 1 does what SCENARIO says, with run.timeout at 2 s.
misbehave() {
  local job status
  timeout --kill-after=5 60 "$source_dir/launch/mpirun.sh" 2 "$program" "$1" "$workspace/text.txt" > "$output" 2>&1 &
  job=$!
  ends_within "$2" "$1"
  (( status == 1 )) || fail "exit code $status of $1, expected 1"
}

misbehave leaves_early 30
says_once "conclave: missing, at its end already: rank 1 on "
says "waits"
verdict "a rank that leaves the loop early" "the watchdog names it; exit 1"

# Each rank sees the other's place, or count; whose error ends the job is a matter of time.
says_of_either() {
  grep --quiet --fixed-strings -e "$1" -e "$2" "$output" || fail "nothing says: $1, or as the other rank: $2"
}

trains="in step 4, micro-step 0, layer 0, training, 4 experts in 1 chunk"
evaluates="in step 1, micro-step 0, layer 0, evaluation, 4 experts in 1 chunk"
misbehave evaluates 20
says_of_either "exchanges tokens $trains; rank 1 $evaluates" "exchanges tokens $evaluates; rank 0 $trains"
verdict "a rank that evaluates while others train" "an error names both places before tokens travel; exit 1"

ahead="in step 5, micro-step 0, layer 0, training, 4 experts in 1 chunk"
misbehave another_step 20
says_of_either "exchanges tokens $trains; rank 1 $ahead" "exchanges tokens $ahead; rank 0 $trains"
verdict "a rank that is a step ahead" "an error names both steps before tokens travel; exit 1"

misbehave another_order 20
says "the ranks order their operations differently"
verdict "ranks that order operations differently" "an error names both operations; exit 1"

misbehave another_count 20
says_of_either "expected 40000 bytes from rank 1, and it sends 40004" "expected 40004 bytes from rank 0, and it sends 40000"
verdict "counts that do not match" "an error names both counts, and nothing is written past a buffer; exit 1"

misbehave broadcasts 30
says_once "conclave: ranks order operations differently: "
says "broadcast number"
verdict "a rank that broadcasts while others reduce" "the watchdog names both operations; exit 1"

misbehave exits_with_0 20
verdict "a rank that ends with exit code 0" "the job ends at once with exit code 1"
