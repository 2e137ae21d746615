#!/usr/bin/env bash
# Trains the presets of the classic Mixture-of-Experts papers and a dense model of equal FLOPs a token, and prints one
# table: held-out bits per byte, parameters, load, drops, and the time of a step as a multiple of the dense model's.
#   launch/compare_classics.sh [--ranks N] [--no-timing] [PRESET...] [KEY=VALUE...]     default: 2 ranks, all presets
#
# Runs are kept in runs/compare_classics; one that is complete isn't trained again: remove it to do so. The time is
# measured apart from them, in short runs of the preset and the dense model by turns, so that other work on the machine
# slows both; each ratio is of medians. Needs the quickstart's texts (launch/prepare_quickstart_data.sh) and
# build/conclave (launch/build.sh).
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/metrics.sh

ranks=2
timing=yes
presets=()
overrides=()
while (( $# > 0 )); do
  case $1 in
    --ranks) ranks=${2:?--ranks needs a number}; shift ;;
    --no-timing) timing=no ;;
    *=*) overrides+=("$1") ;;
    -*)
      echo "usage: launch/compare_classics.sh [--ranks N] [--no-timing] [PRESET...] [KEY=VALUE...]" >&2
      exit 2
      ;;
    *) presets+=("$1") ;;
  esac
  shift
done
if (( ${#presets[@]} == 0 )); then
  presets=(classics_dense shazeer_2017 shazeer_2017_hierarchical gshard switch hash expert_choice mixtral deepseek_v3
    local_experts_1991 local_experts_1991_single)
fi

runs=runs/compare_classics
dense=classics_dense

# step_times PRESET: the times of some steps of a new short run, one a line, without the first, which allocates.
step_times() {
  local dir=$runs/timing/$1
  rm -rf "$dir"
  train_into "$dir" "configs/$1.yaml" "${overrides[@]}" train.steps=9 schedule.warmup_steps=1 log.every=1 \
    data.valid_fraction=0
  awk 'index($0, "\"type\":\"step\"") && match($0, /"step_ms":[0-9.e+-]+/) {
         if (++steps > 1) print substr($0, RSTART + 10, RLENGTH - 10) }' "$dir/metrics.jsonl"
}

median() { sort -g | awk '{ value[NR] = $1 } END { print (value[int((NR + 1) / 2)] + value[int(NR / 2) + 1]) / 2 }'; }

# time_ratio PRESET: of its steps to the dense model's, three short runs of each by turns.
time_ratio() {
  local turn own=$runs/timing/own.txt others=$runs/timing/dense.txt
  mkdir -p "$runs/timing"
  : > "$own"
  : > "$others"
  for turn in 1 2 3; do
    step_times "$dense" >> "$others"
    step_times "$1" >> "$own"
  done
  awk -v own="$(median < "$own")" -v other="$(median < "$others")" 'BEGIN { printf "%.2f", own / other }'
}

# parameters_of RUN_DIR: "624.0 k", active for a token, and in all.
parameters_of() {
  sed -nE 's/^parameters ([0-9.]+ [a-zA-Z]*) in all, ([0-9.]+ [a-zA-Z]*) active.*/\2 \/ \1/p' "$1.log"
}

format='%-26s %20s %9s %10s %8s %7s\n'
# shellcheck disable=SC2059
printf "$format" preset 'active / all' 'bits/byte' imbalance dropped 'x dense'
regressions=()
for preset in "${presets[@]}"; do
  dir=$runs/$preset
  train_into "$dir" "configs/$preset.yaml" "${overrides[@]}"
  if [[ -n $(last_of evaluation mean_squared_error "$dir") ]]; then
    regressions+=("$preset")
    continue
  fi
  bits=$(last_of evaluation bits_per_byte "$dir")
  masked=$(last_of evaluation bits_per_masked_byte "$dir")
  ratio=-
  if [[ $preset == "$dense" ]]; then
    ratio=1
  elif [[ $timing == yes ]]; then
    ratio=$(time_ratio "$preset")
  fi
  # shellcheck disable=SC2059
  printf "$format" "$preset" "$(parameters_of "$dir")" "$(printf '%.3f%s' "${bits:-$masked}" "${masked:+ *}")" \
    "$(printf '%.2f' "$(mean_of load_imbalance "$dir")")" \
    "$(awk -v share="$(mean_of dropped_fraction "$dir")" 'BEGIN { printf "%.1f%%", 100 * share }')" "$ratio"
done
echo "* bits per masked byte, predicted from both sides: not comparable with the others"
echo "active / all: parameters that a token meets, and the model's. Every feed-forward is 256 hidden units a token."
echo "load imbalance (busiest expert / mean, of the worst layer) and drops: means over the second half of the steps"
echo "x dense: the median step's time over that of the dense model, measured by turns"

if (( ${#regressions[@]} > 0 )); then
  echo
  printf '%-26s %16s %24s\n' regression 'squared error' 'of the likeliest expert'
  for preset in "${regressions[@]}"; do
    printf '%-26s %16.5f %24.5f\n' "$preset" "$(last_of evaluation mean_squared_error "$runs/$preset")" \
      "$(last_of evaluation best_mean_squared_error "$runs/$preset")"
  done
fi
