#!/usr/bin/env bash
# 20 steps equal 10, a stop and 10 more, bit for bit, and two equal runs are equal. Two micro-batches a step, and a
# router that has what may get lost on the way: a bias that moves from step to step, and noise drawn by step.
# usage: resume.sh BINARY SOURCE_DIR RANKS
source "${BASH_SOURCE%/*}/common.sh"

batch=(train.micro_batch=2 "train.global_batch=$(( 4 * ranks ))"
       moe.router=sigmoid moe.bias_update_rate=0.05 moe.jitter=0.1)

train 0 straight "${batch[@]}"
says "in 2 micro-batches of at most 2 a rank"
train 0 again "${batch[@]}"
same_state straight again 20

train 75 resumed "${batch[@]}" train.stop_after=10
says "train.stop_after=10 was reached; the same command continues"
[[ -d resumed/checkpoints/step_000010 ]] || fail "no checkpoint of step 10"
grep --quiet --text --fixed-strings layers.1.moe.router.bias resumed/checkpoints/step_000010/*.safetensors ||
  fail "the checkpoint has no bias"
train 0 resumed "${batch[@]}"
says "resumed from resumed/checkpoints/step_000010, step 10"
same_state straight resumed 20

# Saving beside training changes nothing but when the files are written.
train 75 beside "${batch[@]}" checkpoint.async=true checkpoint.every=1 train.stop_after=10
train 0 beside "${batch[@]}" checkpoint.async=true checkpoint.every=1
says "resumed from beside/checkpoints/step_000010, step 10"
same_state straight beside 20

# In bf16, where the processor has it.
train 0 bf16 "${batch[@]}" precision.compute=auto
train 75 bf16_resumed "${batch[@]}" precision.compute=auto train.stop_after=10
train 0 bf16_resumed "${batch[@]}" precision.compute=auto
same_state bf16 bf16_resumed 20

# Another seed must make another run, or the comparison sees nothing.
train 0 other "${batch[@]}" run.seed=43
cmp --silent {straight,other}/checkpoints/step_000020/rank_00000.safetensors && fail "the seed changes nothing"

# A run that is done stays done.
train 0 straight "${batch[@]}"
same_state straight again 20
echo "passed on $ranks ranks"
