#!/usr/bin/env bash
# Does balancing work? The tiny preset with 16 experts, two a token, and a router whose weights start at 0: all experts
# tie, ties go to the lower id, so every token starts on the same two, a load imbalance of 8. Each way of balancing
# trains from there; the table shows the imbalance (busiest expert / mean, of the worst layer; 1 is even).
#   launch/compare_balancing.sh [--ranks N] [TEXT]      default: 2 ranks, data/kjv.txt
# Runs are kept in runs/compare_balancing; one that is complete isn't trained again: remove it to do so.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/metrics.sh

ranks=2
text=data/kjv.txt
while (( $# > 0 )); do
  case $1 in
    --ranks) ranks=${2:?--ranks needs a number}; shift ;;
    -*)
      echo "usage: launch/compare_balancing.sh [--ranks N] [TEXT]" >&2
      exit 2
      ;;
    *) text=$1 ;;
  esac
  shift
done
if [[ ! -s $text ]]; then
  echo "$text is missing: launch/prepare_quickstart_data.sh makes data/kjv.txt, and any other text will do" >&2
  exit 1
fi

runs=runs/compare_balancing
common=("data.train.0.path=$text" moe.experts=16 moe.router_init_std=0 moe.z_loss=0 optim.lr=3e-3 train.steps=300
  train.micro_batch=16 train.global_batch=64 train.eval_every=0 checkpoint.every=0 log.every=10)

# imbalance_at STEP RUN_DIR
imbalance_at() {
  awk -v start="{\"type\":\"step\",\"step\":$1," '
    index($0, start) == 1 && match($0, /"load_imbalance":[.0-9e+-]+/) { print substr($0, RSTART + 17, RLENGTH - 17) }
  ' "$2/metrics.jsonl"
}

printf '%-24s %8s %8s %8s %8s %8s\n' balancing 'step 10' 'step 50' 'step 100' 'step 200' 'step 300'
# compare NAME [KEY=VALUE...]
compare() {
  local name=$1 step
  shift
  train_into "$runs/$name" configs/tiny.yaml "${common[@]}" "$@"
  printf '%-24s' "$name"
  for step in 10 50 100 200 300; do printf ' %8.2f' "$(imbalance_at "$step" "$runs/$name")"; done
  echo
}

compare none moe.balance_loss=0
compare balance_loss_sequence moe.balance_loss=0.5 moe.balance_scope=sequence
compare balance_loss_batch moe.balance_loss=2 moe.balance_scope=batch
compare balance_loss_global moe.balance_loss=2 moe.balance_scope=global_batch
compare importance_and_load moe.router=noisy_top_k moe.balance_loss=0 moe.importance_loss=0.1 moe.load_loss=0.1
compare gshard moe.router=gshard moe.balance_loss=2 moe.balance_scope=batch
compare sigmoid_bias moe.router=sigmoid moe.balance_loss=0 moe.bias_update_rate=0.003
compare expert_choice moe.router=expert_choice moe.balance_loss=0 moe.capacity_factor=1 model.causal=false \
  train.objective=masked
