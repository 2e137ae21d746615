#!/usr/bin/env bash
# The disk fills up in the middle of a save: training goes on, the message names path and bytes, and once there is room
# the next save works. On a small file system of its own where one can be mounted, and with injected faults anywhere.
# usage: full_disk.sh BINARY SOURCE_DIR RANKS FAULTS_LIBRARY
source "${BASH_SOURCE%/*}/common.sh"
faults_library=$helper

for beside in false true; do
  # Bytes 200,000 on of the first file of step 4 find no room.
  run=injected_$beside
  LD_PRELOAD=$faults_library CONCLAVE_FILE_FAULTS_RANK=1 CONCLAVE_FILE_FAULTS="write:ENOSPC:step_000004.tmp/rank:2:1" \
    train 0 "$run" checkpoint.every=2 checkpoint.keep=20 checkpoint.async=$beside
  says "warning: checkpoint $run/checkpoints/step_000004 was not saved: rank 1: can't write to"
  says "step_000004.tmp/rank_00001.safetensors: No space left on device, after"
  says "bytes are free there"
  [[ ! -e $run/checkpoints/step_000004 && ! -e $run/checkpoints/step_000004.tmp ]] || fail "step 4 is there"
  [[ -e $run/checkpoints/step_000002 && -e $run/checkpoints/step_000006 ]] || fail "step 2 or 6 is missing"
  whole "$run"
done
verdict "ENOSPC in the middle of a save (injected)" "training goes on, path and bytes are named, the next save works"

mkdir small
if ! mount -t tmpfs -o size=4m none small 2> /dev/null; then
  echo "skipped: can't mount a small tmpfs here (needs root)"
  exit 0
fi
trap 'umount small; rm -rf "$workspace"' EXIT
# A checkpoint has half a mebibyte. Beside the ballast there is room for one, and none for a second.
head -c 3400000 /dev/zero > small/ballast
"$source_dir/launch/mpirun.sh" "$ranks" "$binary" train "$tiny" run.dir=small/run \
  "data.train.0.path=$workspace/text.txt" train.steps=100000 train.eval_every=0 checkpoint.every=5 checkpoint.keep=1 \
  log.every=100 > "$output" 2>&1 &
job=$!
wait_for grep --quiet "was not saved: .*No space left on device, after [0-9]* bytes" "$output"
[[ -d small/run/checkpoints/step_000005 ]] || fail "the only good checkpoint is gone"
rm small/ballast
wait_for test ! -e small/run/checkpoints/step_000005  # a later one has taken its place
touch small/run/STOP
status=0
wait "$job" || status=$?
(( status == 75 )) || fail "exit code $status, expected 75"
whole small/run
verdict "a full disk (tmpfs of 4 MiB)" "training goes on, the only checkpoint stays; after room was made, saves work"
