#!/usr/bin/env bash
# The recipe of docs/recipes.md in three runs that continue each other: experts first, the gate next, then both.
# usage: freeze_recipe.sh BINARY SOURCE_DIR RANKS
source "${BASH_SOURCE%/*}/common.sh"

train 78 bad 'train.freeze=[layers.*.moe.ruoter.*]'
says_once 'train.freeze: "layers.*.moe.ruoter.*" matches no parameter; did you mean layers.0.moe.router.weight'
train 78 bad 'train.freeze=["*"]'
says_once "leaves nothing to train"

train 75 run 'train.freeze=["layers.*.moe.router.*"]' train.stop_after=4
says "frozen     256 of them keep their values (train.freeze)"
# The same with the optimizer's state dealt to the ranks, single experts frozen.
for zero in 0 1; do
  train 75 "zero$zero" 'train.freeze=["layers.*.moe.experts.*[0,2-3]", embedding.weight]' optim.zero=$zero \
    train.stop_after=3
done
diff <(metric zero0 step grad_norm) <(metric zero1 step grad_norm) || fail "optim.zero changes a frozen run"
diff <(metric zero0 step loss) <(metric zero1 step loss) || fail "optim.zero changes a frozen run"

train 78 run 'train.freeze=["layers.*.moe.experts.*"]'
says_once 'train.freeze: ["layers.*.moe.router.*"] in the checkpoint, ["layers.*.moe.experts.*"] now'
train 75 run 'train.freeze=["layers.*.moe.experts.*"]' checkpoint.allow_changes=true train.stop_after=8
says "resumed from run/checkpoints/step_000004, step 4"
train 0 run checkpoint.allow_changes=true train.steps=12
says "resumed from run/checkpoints/step_000008, step 8"
says_not "^frozen"
echo "passed"
