#!/usr/bin/env bash
# How fast checkpoints are written, against the disk: launch/bench_checkpoint.sh [RANKS [ROUNDS [key=value...]]]
# In each of ROUNDS (5) rounds the Bible preset makes a few steps and saves after each, at once; then RANKS plain writers, one for
# each rank's file, write as many bytes side by side into the same directory, and fsync. Prints the medians, in bytes a
# second, and the median of their quotients round by round. A save is everything from the step's end to the next one's
# beginning: checksums, files, fsync of files and directories, manifest, rename, and the removal of the one before it.
set -euo pipefail
cd "$(dirname "$0")/.."

ranks=${1:-2}
rounds=${2:-5}
overrides=("${@:3}")
directory=$(mktemp -d -p "${TMPDIR:-/tmp}")
trap 'rm -rf "$directory"' EXIT

median() {
  sort -n | awk '{ value[NR] = $1 } END { print value[int((NR + 1) / 2)] }'
}
# The time of RANKS writers of $1 bytes in all.
plain_seconds() {
  local rank start writers=()
  start=$EPOCHREALTIME
  for (( rank = 0; rank < ranks; ++rank )); do
    dd if="$directory/payload" of="$directory/plain_$rank" bs=1M iflag=count_bytes count=$(( $1 / ranks )) conv=fsync \
      status=none &
    writers+=($!)
  done
  wait "${writers[@]}"
  awk -v start="$start" -v end="$EPOCHREALTIME" 'BEGIN { print end - start }'
  rm "$directory"/plain_*
}

for (( round = 1; round <= rounds; ++round )); do
  rm -rf "$directory/run"
  launch/mpirun.sh "$ranks" build/conclave train configs/bible.yaml run.dir="$directory/run" train.steps=100000 \
    train.stop_after=6 train.eval_every=0 checkpoint.every=1 checkpoint.keep=1 checkpoint.async=false train.global_batch=2 \
    train.micro_batch=1 "${overrides[@]}" > /dev/null || [[ $? -eq 75 ]]
  newest=$(ls -d "$directory"/run/checkpoints/step_* | tail -n 1)
  bytes=$(cat "$newest"/* | wc -c)
  cat "$newest"/*.safetensors > "$directory/payload"  # in the page cache from here on
  save=$(sed -n 's/.*save of step .*: training stood still for \([0-9.]*\) s$/\1/p' "$directory/run/logs/rank_0.log" | median)
  plain=$(for attempt in 1 2 3; do plain_seconds "$bytes"; done | median)
  awk -v bytes="$bytes" -v save="$save" -v plain="$plain" 'BEGIN { print bytes / save, bytes / plain, plain / save }' \
    >> "$directory/rounds"
done
printf '%d ranks, %d rounds, checkpoints of %d bytes\n' "$ranks" "$rounds" "$bytes"
printf 'save %.0f MB/s  plain fsynced write %.0f MB/s  save / plain %.2f\n' \
  "$(cut -d ' ' -f 1 "$directory/rounds" | median | awk '{ print $1 / 1e6 }')" \
  "$(cut -d ' ' -f 2 "$directory/rounds" | median | awk '{ print $1 / 1e6 }')" \
  "$(cut -d ' ' -f 3 "$directory/rounds" | median)"
