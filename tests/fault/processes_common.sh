# Sourced by the scripts here that disturb processes, with the words that all of them are started with:
# BINARY SOURCE_DIR RANKS PROGRAM. Gives what common.sh does, and more.
source "${BASH_SOURCE%/*}/common.sh"
program=$helper

# A test that fails leaves nothing running.
job=
end_job() {
  if [[ -n $job ]]; then kill -TERM "$job" 2> /dev/null && sleep 0.2 && kill -TERM "$job" 2> /dev/null; fi
  wait 2> /dev/null
  rm -rf "$workspace"
}
trap end_job EXIT

process_of_rank() { rank_processes | awk -v rank="$1" '$1 == rank { print $2 }'; }

# start RUN [KEY=VALUE...]: the tiny run in the background, as the process $job, until its first checkpoint is there.
start() {
  local run=$1
  shift
  "$source_dir/launch/mpirun.sh" "$ranks" "$binary" train "$tiny" "run.dir=$run" "data.train.0.path=$workspace/text.txt" \
    train.steps=100000 checkpoint.every=20 train.eval_every=0 "$@" > "$output" 2>&1 &
  job=$!
  wait_for compgen -G "$run/checkpoints/step_??????/manifest.pb"
}

# ends_within SECONDS WHAT: $job ends by itself, with $status; no rank is left. The bound is against hanging: it leaves
# room for a busy machine.
ends_within() {
  status=0
  SECONDS=0
  wait "$job" || status=$?
  job=
  echo "ended within $(( SECONDS + 1 )) s after: $2"
  (( SECONDS <= $1 )) || fail "the job lived on for $SECONDS s after: $2"
  [[ -z $(rank_processes) ]] || fail "left over after $2: $(rank_processes)"
}

# continues RUN: the same command goes on from the newest checkpoint.
continues() {
  local newest
  newest=$(find "$1/checkpoints" -maxdepth 1 -name 'step_??????' | sort | tail -n 1)
  train 75 "$1" train.steps=100000 checkpoint.every=20 train.eval_every=0 \
    "train.stop_after=$(( 10#${newest##*_} + 3 ))"
  says "resumed from $newest"
}
