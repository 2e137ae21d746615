#!/usr/bin/env bash
# Every way to stop a run saves its state and exits with 75; the same command continues to the undisturbed end.
# usage: stop.sh BINARY SOURCE_DIR RANKS
source "${BASH_SOURCE%/*}/common.sh"

plan=(train.steps=300 checkpoint.every=0 train.eval_every=0)
train 0 straight "${plan[@]}"

# start RUN [KEY=VALUE...]: in the background, as the process $job, until its tenth step is done.
start() {
  local run=$1
  shift
  local program=("$binary")
  if (( ranks > 1 )); then program=("$source_dir/launch/mpirun.sh" "$ranks" "$binary"); fi
  "${program[@]}" train "$tiny" "run.dir=$run" "data.train.0.path=$workspace/text.txt" "${plan[@]}" "$@" \
    > "$output" 2>&1 &
  job=$!
  wait_for grep --quiet "^step  *10/" "$output"
}

# stopped RUN REASON: the job ends by itself, with its state saved.
stopped() {
  local status=0
  wait "$job" || status=$?
  (( status == 75 )) || fail "exit code $status after a stop, expected 75"
  says "$2; the same command continues"
  says_not "^-----|terminate called"
  [[ -n $(find "$1/checkpoints" -name manifest.pb) ]] || fail "$1 has no checkpoint"
  [[ ! -d $1/checkpoints/step_000300 ]] || fail "$1 was over before it was stopped"
}

for signal in TERM USR1; do
  start "$signal"
  kill "-$signal" "$job"
  # The launcher turns SIGTERM into SIGUSR1, which leaves the ranks the time to save.
  if (( ranks > 1 )) || [[ $signal == USR1 ]]; then
    stopped "$signal" "received User defined signal 1"
  else
    stopped "$signal" "received Terminated"
  fi
done

start file
touch file/STOP
stopped file "file/STOP exists"

start wall run.max_wall_time=0.5s
stopped wall "run.max_wall_time of 0"

# Stopped twice, by the file and by the limit of time, and continued: nothing of it shows in the result.
train 0 file "${plan[@]}"
same_state straight file 300
train 0 TERM "${plan[@]}"
same_state straight TERM 300

# Who asks twice does not want to wait for a save.
start twice train.steps=100000
kill -TERM "$job"
kill -TERM "$job"
status=0
wait "$job" || status=$?
(( status != 0 )) || fail "exit code 0 after two SIGTERM"
echo "passed on $ranks ranks"
