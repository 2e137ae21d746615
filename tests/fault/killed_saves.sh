#!/usr/bin/env bash
# Runs that save after every step are killed (-9) at random moments, one rank or all of them, and started again; in
# the end they equal the run that nobody disturbed, bit for bit. Half of the runs save beside training.
# usage: killed_saves.sh BINARY SOURCE_DIR RANKS FAULTS_LIBRARY
source "${BASH_SOURCE%/*}/common.sh"

rounds=${FAULT_ROUNDS:-6}
seed=${FAULT_SEED:-20240229}
RANDOM=$seed
echo "seed $seed, $rounds kills"
steps=120  # far more than are done before the kill comes
plan=(train.steps=$steps checkpoint.every=1 train.eval_every=0)

train 0 straight "${plan[@]}"

# Starts RUN, kills it VICTIM (a rank, or "all") after a random time, and checks what is left.
killed=0
kill_once() {
  local run=$1 victim=$2 beside=$3 status=0 process from
  from=$(find "$run" -name 'step_??????' 2> /dev/null | sort | tail -n 1)
  from=$(( 10#0${from##*_} ))
  if (( from >= steps )); then return 1; fi  # killed after its last save: no step is left to wait for
  "$source_dir/launch/mpirun.sh" "$ranks" "$binary" train "$tiny" "run.dir=$run" \
    "data.train.0.path=$workspace/text.txt" "${plan[@]}" checkpoint.async="$beside" \
    > "$output" 2>&1 &
  local job=$!
  wait_for grep --quiet "^step  *$(( from + 1 ))/" "$output"
  sleep "0.0$(( RANDOM % 10 ))$(( RANDOM % 10 ))"
  for process in $(rank_processes | awk -v rank="$victim" '$1 == rank || rank == "all" { print $2 }'); do
    kill -KILL "$process" 2> /dev/null || true
  done
  wait "$job" || status=$?
  [[ -z $(rank_processes) ]] || fail "left over: $(rank_processes)"
  if (( status == 0 )); then return 1; fi  # it had come to its end before
  killed=$((killed + 1))
  (( status == 137 )) || fail "exit code $status, expected 137 (128 + SIGKILL)"
}

round=0
for (( run = 0; round < rounds; ++run )); do
  beside=$([[ $(( run % 2 )) == 0 ]] && echo false || echo true)
  for (( kills = 0; kills < 3 && round < rounds; ++kills, ++round )); do
    victims=(0 1 all)
    kill_once "run_$run" "${victims[RANDOM % 3]}" "$beside" || break
    whole "run_$run"
  done
  train 0 "run_$run" "${plan[@]}" checkpoint.async="$beside"
  same_state straight "run_$run" $steps
  whole "run_$run"
  leftovers=$(find "run_$run/checkpoints" -mindepth 1 -maxdepth 1 ! -name 'step_??????')
  [[ -z $leftovers ]] || fail "left over: $leftovers"
  round=$((round + 1))
done
(( killed > 0 )) || fail "no run was killed: they end too soon"
verdict "one rank or all killed (-9) at random moments, saving after every step" \
  "$killed kills in $run runs: each resumes, and ends as the undisturbed run, bit for bit"
