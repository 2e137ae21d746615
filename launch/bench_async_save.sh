#!/usr/bin/env bash
# What saving beside training costs: launch/bench_async_save.sh [RANKS [PAIRS [STEPS [key=value...]]]]
# One run of the Bible preset in which windows of STEPS (10) steps that begin with a save alternate with windows that have
# none, PAIRS (10) of each, so that a change of the machine's mood meets both alike; once with checkpoint.async=true, once with
# false. Time is that of the clock between the lines that the run prints, saves and waits included. Prints the medians of
# both kinds of windows and of their quotients, pair by pair. For a quiet machine; a process beside the run takes from both.
set -euo pipefail
cd "$(dirname "$0")/.."

ranks=${1:-2}
pairs=${2:-10}
steps=${3:-10}
overrides=("${@:4}")
directory=$(mktemp -d -p "${TMPDIR:-/tmp}")
trap 'rm -rf "$directory"' EXIT

# run NAME KEY=VALUE...: a line "STEP SECONDS" for each window's end in NAME.
run() {
  local name=$1 line
  shift
  rm -rf "$directory/run"
  # The first pair has the start in it.
  { launch/mpirun.sh "$ranks" build/conclave train configs/bible.yaml run.dir="$directory/run" train.steps=100000 \
      train.stop_after=$(( 2 * steps * (pairs + 1) + steps )) train.eval_every=0 log.every="$steps" \
      checkpoint.every=$(( 2 * steps )) "$@" "${overrides[@]}" || [[ $? -eq 75 ]]; } |
    while IFS= read -r line; do
      if [[ $line =~ ^step\ +([0-9]+)/ ]]; then echo "${BASH_REMATCH[1]} $EPOCHREALTIME"; fi
    done > "$directory/$name"
}
median() {
  sort -n | awk '{ value[NR] = $1 } END { print value[int((NR + 1) / 2)] }'
}

run beside checkpoint.async=true
run at_once checkpoint.async=false
bytes=$(du -sb "$(ls -d "$directory"/run/checkpoints/step_* | tail -n 1)" | cut -f 1)
printf '%d ranks, %d pairs of windows of %d steps, saves of %d bytes\n' "$ranks" "$pairs" "$steps" "$bytes"
for name in beside at_once; do
  # Columns: ms a step with a save in the window, without one, and their quotient.
  awk -v steps="$steps" '
    NR > 1 { window[$1 / steps] = 1e3 * ($2 - before) / steps }
    { before = $2 }
    END { for (n = 3; n + 1 in window; n += 2) print window[n], window[n + 1], window[n] / window[n + 1] }
  ' "$directory/$name" > "$directory/pairs"
  printf '%-8s  with a save %8.2f ms a step  without %8.2f ms a step  with / without %6.3f\n' "$name" \
    "$(cut -d ' ' -f 1 "$directory/pairs" | median)" "$(cut -d ' ' -f 2 "$directory/pairs" | median)" \
    "$(cut -d ' ' -f 3 "$directory/pairs" | median)"
done
