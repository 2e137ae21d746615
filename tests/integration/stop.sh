#!/usr/bin/env bash
# Every way to stop a run saves its state and exits with 75; the same command continues to the undisturbed end.
# usage: stop.sh BINARY SOURCE_DIR RANKS
source "${BASH_SOURCE%/*}/common.sh"

# Far more steps than any of these runs makes: each is ended by the stop.
plan=(train.steps=100000 checkpoint.every=0 train.eval_every=0)

# start RUN [KEY=VALUE...]: in the background, as the process $job, until its first step is done.
start() {
  local run=$1
  shift
  local program=("$binary")
  if (( ranks > 1 )); then program=("$source_dir/launch/mpirun.sh" "$ranks" "$binary"); fi
  : > "$output"
  "${program[@]}" train "$tiny" "run.dir=$run" "data.train.0.path=$workspace/text.txt" "${plan[@]}" "$@" \
    > "$output" 2>&1 &
  job=$!
  wait_for grep --quiet "^step  *1/" "$output"
}

# stopped RUN REASON: the job ends by itself, with its state saved at $steps.
stopped() {
  local status=0
  wait "$job" || status=$?
  (( status == 75 )) || fail "exit code $status after a stop, expected 75"
  says "$2; the same command continues"
  says_not "^-----|terminate called"
  steps=$(sed --quiet 's/^stopped after step \([0-9]*\):.*/\1/p' "$output")
  [[ -e $(printf '%s/checkpoints/step_%06d/manifest.pb' "$1" "$steps") ]] || fail "no checkpoint of step $steps in $1"
  [[ -s $1/report.html ]] || fail "the stopped run $1 has no report.html"
}

start user_signal
kill -USR1 "$job"
stopped user_signal "received User defined signal 1"

start terminated
kill -TERM "$job"
if (( ranks > 1 )); then
  # What the launcher makes of SIGTERM, so that there is time to save.
  stopped terminated "received User defined signal 1"
else
  stopped terminated "received Terminated"
fi

start wall run.max_wall_time=0.5s
stopped wall "run.max_wall_time of 0.5 s was reached"

start file
touch file/STOP
stopped file "file/STOP exists"

# Continued, past the STOP file, the run is the one that nobody stopped.
train 75 file "${plan[@]}" train.stop_after=$(( steps + 5 ))
train 75 undisturbed "${plan[@]}" train.stop_after=$(( steps + 5 ))
same_state undisturbed file $(( steps + 5 ))

# 75 promises that the state is saved. Saves on the way may fail: here a file takes the place of the directory.
plan=(train.steps=100000 checkpoint.every=2 train.eval_every=0)
start unsaved
until rm -rf unsaved/checkpoints && touch unsaved/checkpoints && [[ -f unsaved/checkpoints ]]; do :; done 2> /dev/null
wait_for grep --quiet "warning: checkpoint unsaved/checkpoints/step_.* was not saved" "$output"
touch unsaved/STOP
status=0
wait "$job" || status=$?
(( status == 1 )) || fail "exit code $status of a run whose last save fails, expected 1"
says_once "and its state can't be saved"

# Who asks twice does not want to wait for a save.
start twice
kill -TERM "$job"
kill -TERM "$job"
status=0
wait "$job" || status=$?
(( status != 0 && status != 78 )) || fail "exit code $status after two SIGTERM"
echo "passed on $ranks ranks"
