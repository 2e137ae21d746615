#!/usr/bin/env bash
# `conclave bench` in all its forms as a user types them, and log.profile, small.
# usage: bench.sh BINARY SOURCE_DIR RANKS
source "${BASH_SOURCE%/*}/common.sh"

shape=(model.layers=2 model.d_model=64 model.heads=2 model.max_seq=32 moe.d_ff=48 model.d_ff=96 train.micro_batch=2
       "train.global_batch=$((4 * ranks))" moe.experts=4)
bench() { expect 0 launch "$ranks" bench "$@"; }

for what in gemm grouped_gemm attention layer; do
  bench "$what" "${shape[@]}" --seconds 0.01
  says "peak of this run: fp32"
  says "gflops"
done
if (( ranks > 1 )); then
  bench exchange "${shape[@]}" --seconds 0.01
  says "of alltoallv"
  bench step "${shape[@]}" --steps 2 --weak-scaling
  says "weak scaling"
  says "one rank alone"
else
  expect 78 launch 1 bench exchange
  says "one rank exchanges nothing"
fi

# A file, overrides, and others in turns with it; the data of the file is not asked for.
bench step "$tiny" data.train.0.path=none train.micro_batch=2 "train.global_batch=$((4 * ranks))" --steps 3 \
  --against moe.experts=8 --against "$tiny data.train.0.path=none moe.experts=0" --json
says '"variant": "moe.experts=8"'
says '"peak_share":'
(( $(grep --count '"ratio":' "$output") == 2 )) || fail "not two ratios"
expect 78 launch "$ranks" bench nothing
expect 78 launch "$ranks" bench step "$tiny" more.yaml
says "more.yaml is neither"

# A trace of three steps, one track a rank.
train 0 traced log.profile=3
says "trace of 3 steps in traced/trace.json"
says "imbalance tax"
grep --quiet '"imbalance_tax":[0-9]' traced/metrics.jsonl || fail "no imbalance tax in metrics.jsonl"
grep --quiet '"time":{"gemm":0.[0-9]*,"attention":' traced/metrics.jsonl || fail "no shares of the time in metrics.jsonl"
for (( rank = 0; rank < ranks; ++rank )); do
  grep --quiet "\"args\":{\"name\":\"rank $rank\"}" traced/trace.json || fail "no track of rank $rank"
  for name in "step 1" "step 2" "step 3" "block 1" "grouped gemm dW" "exchange counts" optimizer; do
    grep --quiet "\"name\":\"$name\",\"ph\":\"X\",\"pid\":0,\"tid\":$rank," traced/trace.json ||
      fail "no span $name of rank $rank"
  done
done
if grep --quiet '"step 0"\|"step 4"' traced/trace.json; then fail "other steps than 1 to 3 were traced"; fi
# A run that ends before leaves what there is.
train 0 short log.profile=100 train.steps=3
says "trace of 2 steps"
echo "passed on $ranks ranks"
