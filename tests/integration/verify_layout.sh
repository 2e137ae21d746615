#!/usr/bin/env bash
# conclave verify-layout: layouts agree within rounding, and bit for bit with run.determinism=cross_layout; it starts the
# ranks itself, and says what can't be compared.
# usage: verify_layout.sh BINARY SOURCE_DIR
source "${BASH_SOURCE%/*}/common.sh"

verify() {
  timeout --kill-after=5 100 "$binary" verify-layout "$tiny" "data.train.0.path=$workspace/text.txt" "$@"
}

expect 0 verify --ranks 1,2 --steps 2
says "all 3 layouts compute the same over 2 steps"
expect 0 verify --ranks=1,2,3 --steps=2 run.determinism=cross_layout moe.capacity_factor=1 moe.experts=5
says "all 5 layouts compute the same over 2 steps"
says_not "[0-9]e-[0-9]"  # equal, bit for bit
# In bf16, where the processor has it, a weight moved by a unit in fp32's last place moves the factors of products by
# units of bf16, and so does another layout: the bound knows.
expect 0 verify --ranks 1,2,3 --steps 2 precision.compute=auto moe.experts=5
expect 0 verify --ranks=1,2,3 --steps=2 precision.compute=auto run.determinism=cross_layout moe.experts=5
says_not "[0-9]e-[0-9]"

expect 78 verify --ranks 2 moe.capacity_factor=1
says_once "to compare layouts add moe.capacity_factor=dropless"
expect 78 verify --ranks 2 moe.balance_scope=batch
says_once "to compare layouts add moe.balance_scope=sequence"

# Runs on one rank and on two, with whole copies of the experts and with shards of them, are the same run, bit for bit.
same=(run.determinism=cross_layout train.micro_batch=2)
ranks=1
train 0 one "${same[@]}"
ranks=2
train 0 copies "${same[@]}" parallel.expert_parallel_size=1
train 0 shards "${same[@]}" parallel.expert_parallel_size=2
for field in loss grad_norm; do
  diff <(metric one step "$field") <(metric copies step "$field") || fail "$field differs between one rank and copies"
  diff <(metric one step "$field") <(metric shards step "$field") || fail "$field differs between one rank and shards"
done
echo "passed"
