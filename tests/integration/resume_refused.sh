#!/usr/bin/env bash
# A run continues only as the experiment that it was, unless told to; checkpoint.resume says what else may happen.
# usage: resume_refused.sh BINARY SOURCE_DIR RANKS
source "${BASH_SOURCE%/*}/common.sh"

train 75 run train.stop_after=5

train 78 run optim.lr=2e-3 moe.top_k=1
says_once "optim.lr: 0.001 in the checkpoint, 0.002 now"
says_once "moe.top_k: 2 in the checkpoint, 1 now"
says "checkpoint.allow_changes=true"

# What leaves results alone may change freely.
train 75 run log.every=5 run.name=renamed checkpoint.every=7 train.stop_after=6
train 75 run optim.lr=2e-3 checkpoint.allow_changes=true train.stop_after=8
says "resumed from run/checkpoints/step_000006, step 6"
metric run step lr | awk '$1 == 7 && $2 > 0.001 { found = 1 } END { exit !found }' ||
  fail "step 7 is not above the old rate"

train 78 run checkpoint.resume=never optim.lr=2e-3
says "checkpoint.resume is never, and run holds checkpoints"
train 78 empty checkpoint.resume=must
says "checkpoint.resume is must, and empty holds no checkpoint"

# A newest checkpoint that is damaged is passed over, loudly.
train 75 damaged train.stop_after=5
train 75 damaged train.stop_after=8
printf xx | dd of=damaged/checkpoints/step_000008/rank_00000.safetensors bs=1 seek=30000 conv=notrunc status=none
train 75 damaged train.stop_after=9
says "warning: "
says "step_000008"
says "resumed from damaged/checkpoints/step_000005, step 5"
echo "passed"
