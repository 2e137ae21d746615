#!/usr/bin/env bash
# A rank is killed in mid-run: the job ends soon and says which rank it was; the same command continues from the newest
# checkpoint, and ends as the run that nobody disturbed.
# usage: killed_rank.sh BINARY SOURCE_DIR
source "${BASH_SOURCE%/*}/common.sh"
ranks=2

# Far more steps than the run makes before it is killed.
plan=(train.steps=100000 checkpoint.every=20 train.eval_every=0)

# The ranks of this test that run, as lines "RANK PROCESS".
rank_processes() {
  local process rank
  for process in /proc/[0-9]*; do
    if [[ $(readlink "$process/cwd") == "$workspace" ]] &&
       rank=$(tr '\0' '\n' < "$process/environ" | sed --quiet 's/^OMPI_COMM_WORLD_RANK=//p') && [[ -n $rank ]]; then
      echo "$rank ${process#/proc/}"
    fi
  done 2> /dev/null
}

launch 2 train "$tiny" run.dir=killed data.train.0.path="$workspace/text.txt" "${plan[@]}" > "$output" 2>&1 &
job=$!
wait_for compgen -G "killed/checkpoints/step_??????"
rank_1=$(rank_processes | awk '$1 == 1 { print $2 }')
[[ -n $rank_1 ]] || fail "found no rank 1 to kill; did the run end before?"

SECONDS=0
kill -KILL "$rank_1"
status=0
wait "$job" || status=$?
echo "the job ended $SECONDS s after the rank, with exit code $status"
(( status == 137 )) || fail "exit code $status, expected 137 (128 + SIGKILL)"
(( SECONDS <= 20 )) || fail "the job lived on for $SECONDS s"  # 5 on an idle machine
says "process rank 1"
says "signal 9 (Killed)"
[[ -z $(rank_processes) ]] || fail "left over: $(rank_processes)"

newest=$(find killed/checkpoints -name 'step_??????' | sort | tail -n 1)
until=$(( 10#${newest##*_} + 10 ))
train 75 killed "${plan[@]}" train.stop_after=$until
says "resumed from $newest"
train 75 straight "${plan[@]}" train.stop_after=$until
same_state straight killed $until
echo "passed"
