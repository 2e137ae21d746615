#!/usr/bin/env bash
# The mixture of local experts of 1991: its error is below half that of one expert of equal size, the table tells which
# expert took which region, a CSV file takes the place of made-up samples, and eval and generate know what it is.
# usage: local_experts.sh BINARY SOURCE_DIR RANKS
source "${BASH_SOURCE%/*}/common.sh"

squared_error() { metric "$1" evaluation mean_squared_error | tail -n 1 | cut -d ' ' -f 2; }
shorter=(train.steps=1500 train.eval_every=0 checkpoint.every=0 log.every=500)

for preset in local_experts_1991_single local_experts_1991; do
  expect 0 launch "$ranks" train "$source_dir/configs/$preset.yaml" "run.dir=$preset" "${shorter[@]}"
done
says "mixture of 4 local experts"
for region in north_west north_east south_west south_east; do says "$region"; done
says "share of each source's choices that an expert takes"
echo "squared error: mixture $(squared_error local_experts_1991), single $(squared_error local_experts_1991_single)"
awk -v mixture="$(squared_error local_experts_1991)" -v single="$(squared_error local_experts_1991_single)" \
  'BEGIN { exit !(mixture > 0 && mixture < single / 2) }' || fail "the mixture isn't twice as good as one expert"

expect 0 launch "$ranks" eval local_experts_1991
says "of the likeliest expert"
expect 78 "$binary" generate local_experts_1991 --prompt x
says "kind: language"

# A user's table: y = |x|, with a header.
awk 'BEGIN { print "x;y"; for (i = 0; i < 400; ++i) { x = (i * 97 % 400 - 200) / 100; print x ";" (x < 0 ? -x : x) } }' \
  > table.csv
cat > table.yaml <<'YAML'
run: {dir: table}
model: {kind: mixture_regression, init_std: 0.5, sigma: 0.3}
moe: {experts: 2, router: dense, d_ff: 2}
data:
  valid_fraction: 0.2
  regression: {path: table.csv, inputs: 1}
optim: {lr: 1e-2, weight_decay: 0}
schedule: {warmup_steps: 10}
train: {steps: 400, micro_batch: 32, global_batch: 64}
YAML
expect 0 launch "$ranks" train table.yaml
awk -v error="$(squared_error table)" 'BEGIN { exit !(error >= 0 && error < 0.1) }' ||
  fail "a tenth of the variance is left: $(squared_error table)"
expect 1 launch "$ranks" train table.yaml run.dir=other data.regression.inputs=2
says "table.csv has 2 columns"
echo "passed on $ranks ranks"
