#!/usr/bin/env bash
# A replica that computes something else than the others, here by another rate, is found by the comparison of hashes, and
# the run ends before a checkpoint takes part in it.
# usage: processes_drift.sh BINARY SOURCE_DIR RANKS PROGRAM
source "${BASH_SOURCE%/*}/processes_common.sh"

rank=("$binary" train "$tiny" run.dir=drift "data.train.0.path=$workspace/text.txt" train.hash_every=2 checkpoint.every=2)
expect 1 timeout --kill-after=5 60 "$source_dir/launch/mpirun.sh" 1 "${rank[@]}" : -np 1 "${rank[@]}" optim.lr=0.05
says_once "conclave: after step 2: "
says "differs between rank 0 (XXH3 "
says "), rank 1 (XXH3 "
[[ -z $(find drift/checkpoints -name 'step_*') ]] || fail "a checkpoint was written"
verdict "a replica that differs" "train.hash_every names tensor and ranks; no checkpoint of it; exit 1"
