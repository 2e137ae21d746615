#!/usr/bin/env bash
# launch/supervise.sh starts failed runs again, from their newest checkpoint, and knows when that is of no use.
# usage: processes_supervised.sh BINARY SOURCE_DIR RANKS PROGRAM
source "${BASH_SOURCE%/*}/processes_common.sh"

supervise=$source_dir/launch/supervise.sh
command=("$source_dir/launch/mpirun.sh" "$ranks" "$binary" train "$tiny" "data.train.0.path=$workspace/text.txt"
         train.eval_every=0)

# supervised RUN STEPS: in the background, as the process $job, until its first checkpoint is there.
supervised() {
  "$supervise" --pause 0 --restarts 2 -- "${command[@]}" "run.dir=$1" "train.steps=$2" checkpoint.every=20 \
    > "$output" 2>&1 &
  job=$!
  wait_for compgen -G "$1/checkpoints/step_??????/manifest.pb"
}

# A rank that is killed: the run starts again, and ends as the one that nobody disturbed.
steps=150
supervised killed $steps
process=$(process_of_rank 1)
[[ -n $process ]] || fail "found no rank 1; did the run end before?"
kill -KILL "$process"
ends_within 120 "the run was to be done"
(( status == 0 )) || fail "exit code $status, expected 0"
says_once "supervise: exit code 137; starting again in 0 s from the newest good checkpoint, step "
says "resumed from killed/checkpoints/step_"
train 0 straight train.steps=$steps checkpoint.every=20 train.eval_every=0
same_state straight killed $steps
verdict "death of a rank under launch/supervise.sh" "started again; ends as the undisturbed run, bit for bit"

# A saved stop that nobody asked the supervisor for is started again at once; one that passes through it is the end.
supervised stopped 100000
process=$(process_of_rank 0)
kill -USR1 "$process"
wait_for grep --quiet "supervise: exit code 75: the state is saved; starting again at once" "$output"
wait_for grep --quiet "^resumed from" "$output"
kill -TERM "$job"
ends_within 30 "the supervisor received SIGTERM"
(( status == 75 )) || fail "exit code $status after SIGTERM, expected 75"
says_once "supervise: the run ended with exit code 75 after SIGTERM; not started again"
verdict "SIGTERM to launch/supervise.sh" "passed on; saved, exit 75, not started again"

# A fault that repeats: no checkpoint gets newer, so the starts come to an end.
mkdir broken
touch broken/checkpoints
expect 1 "$supervise" --pause 0 --restarts 2 -- "${command[@]}" run.dir=broken train.steps=3
says_once "(1 of 2 restarts without progress)"
says_once "(2 of 2 restarts without progress)"
says_once "supervise: exit code 1; 2 restarts without a checkpoint: giving up"
verdict "a fault that repeats" "given up after N restarts without progress, with the run's exit code"

expect 78 "$supervise" --pause 0 -- "${command[@]}" run.dir=wrong moe.top_k=99
says_once "supervise: exit code 78: the configuration can't be run"
says_not "starting again"
[[ -z $(rank_processes) ]] || fail "left over: $(rank_processes)"
verdict "a configuration error under launch/supervise.sh" "exit 78, never started again"
