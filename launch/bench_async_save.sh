#!/usr/bin/env bash
# How long saving keeps training from going on, at once and beside training:
# launch/bench_async_save.sh [RANKS [ROUNDS [STEPS [key=value...]]]]
# Alternates runs of the Bible preset that save every 5 steps (checkpoint.async=false and true) and that never save, so
# that a change of the machine's mood meets all three alike. Prints the median over the rounds of the time that training stood
# still for a save, of a whole run's step, and of the bytes a second that a save wrote. For a quiet machine.
set -euo pipefail
cd "$(dirname "$0")/.."

ranks=${1:-2}
rounds=${2:-5}
steps=${3:-40}
overrides=("${@:4}")
directory=$(mktemp -d -p "${TMPDIR:-/tmp}")
trap 'rm -rf "$directory"' EXIT
every=5

# run NAME KEY=VALUE...: a line "stall_s step_ms" per run in NAME.
run() {
  local name=$1
  shift
  rm -rf "$directory/run"
  launch/mpirun.sh "$ranks" build/conclave train configs/bible.yaml run.dir="$directory/run" train.steps=100000 \
    train.stop_after="$steps" train.eval_every=0 log.every="$every" "$@" "${overrides[@]}" > /dev/null ||
    [[ $? -eq 75 ]]
  local stall step
  # The last save, at the stop, is made at once in every run.
  stall=$(sed -n 's/.*save of step .*: training stood still for \([0-9.]*\) s$/\1/p' "$directory/run/logs/rank_0.log" |
    head -n -1 | sort -n | awk '{ value[NR] = $1 } END { print NR ? value[int((NR + 1) / 2)] : 0 }')
  # Without the first record: it has the start in it.
  step=$(sed -n 's/^{"type":"step",.*"step_ms":\([0-9.]*\).*/\1/p' "$directory/run/metrics.jsonl" |
    awk 'NR > 1 { sum += $1; ++count } END { print sum / count }')
  echo "$stall $step" >> "$directory/$name"
}

for (( round = 1; round <= rounds; ++round )); do
  run never checkpoint.every=0
  run at_once checkpoint.every="$every" checkpoint.async=false
  run beside checkpoint.every="$every" checkpoint.async=true
done

median() {
  sort -n | awk '{ value[NR] = $1 } END { print value[int((NR + 1) / 2)] }'
}
bytes=$(du -sb "$directory/run/checkpoints/$(ls "$directory/run/checkpoints" | tail -n 1)" | cut -f 1)
printf '%d ranks, %d rounds of %d steps, a save of %s bytes every %d steps\n' "$ranks" "$rounds" "$steps" "$bytes" "$every"
for name in never at_once beside; do
  printf '%-8s  stall of a save %8.2f ms  step %8.2f ms\n' "$name" \
    "$(awk '{ print 1e3 * $1 }' "$directory/$name" | median)" "$(awk '{ print $2 }' "$directory/$name" | median)"
done
