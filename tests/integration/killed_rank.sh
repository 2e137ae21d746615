#!/usr/bin/env bash
# A rank is killed in mid-run: the job ends soon and says which rank it was; the same command continues from the newest
# checkpoint, and ends as the run that nobody disturbed.
# usage: killed_rank.sh BINARY SOURCE_DIR
source "${BASH_SOURCE%/*}/common.sh"
ranks=2

plan=(train.steps=400 checkpoint.every=20)
train 0 straight "${plan[@]}"

launch 2 train "$tiny" run.dir=killed data.train.0.path="$workspace/text.txt" "${plan[@]}" > "$output" 2>&1 &
job=$!
wait_for test -d killed/checkpoints/step_000020
# The ranks are the processes of this binary with this run directory; the launcher has other names.
rank_1=
for process in /proc/[0-9]*; do
  if [[ $(readlink "$process/exe") == "$(readlink --canonicalize "$binary")" ]] &&
     [[ $(readlink "$process/cwd") == "$workspace" ]] &&
     tr '\0' '\n' < "$process/environ" | grep --quiet --line-regexp OMPI_COMM_WORLD_RANK=1; then
    rank_1=${process#/proc/}
  fi
done
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
for process in /proc/[0-9]*; do
  [[ $(readlink "$process/cwd" || true) != "$workspace" || $process == /proc/$$ || $process == /proc/$BASHPID ]] ||
    [[ $(readlink "$process/exe" || true) != "$(readlink --canonicalize "$binary")" ]] ||
    fail "${process#/proc/} is left over: $(tr '\0' ' ' < "$process/cmdline")"
done
[[ ! -d killed/checkpoints/step_000400 ]] || fail "the run was over before the rank was killed"

train 0 killed "${plan[@]}"
says "resumed from killed/checkpoints/step_"
same_state straight killed 400
echo "passed"
