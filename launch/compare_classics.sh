#!/usr/bin/env bash
# Trains the presets of the classic Mixture-of-Experts papers and a dense model of equal FLOPs a token, and prints one
# table: held-out bits per byte, load, drops and speed.
#   launch/compare_classics.sh [--ranks N] [PRESET...] [KEY=VALUE...]      default: 2 ranks, all presets
# Runs are kept in runs/compare_classics; one that is complete isn't trained again: remove it to do so. Needs the
# quickstart's texts (launch/prepare_quickstart_data.sh) and build/conclave (launch/build.sh).
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/metrics.sh

ranks=2
presets=()
overrides=()
while (( $# > 0 )); do
  case $1 in
    --ranks) ranks=${2:?--ranks needs a number}; shift ;;
    *=*) overrides+=("$1") ;;
    -*)
      echo "usage: launch/compare_classics.sh [--ranks N] [PRESET...] [KEY=VALUE...]" >&2
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
format='%-26s %9s %10s %8s %8s %9s\n'
# shellcheck disable=SC2059
printf "$format" preset 'bits/byte' imbalance dropped 'step ms' 'tokens/s'
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
  # shellcheck disable=SC2059
  printf "$format" "$preset" "$(printf '%.3f%s' "${bits:-$masked}" "${masked:+ *}")" \
    "$(printf '%.2f' "$(mean_of load_imbalance "$dir")")" \
    "$(awk -v share="$(mean_of dropped_fraction "$dir")" 'BEGIN { printf "%.1f%%", 100 * share }')" \
    "$(printf '%.0f' "$(mean_of step_ms "$dir")")" "$(printf '%.0f' "$(mean_of tokens_per_second "$dir")")"
done
echo "* bits per masked byte, predicted from both sides: not comparable with the others"
echo "load imbalance (busiest expert / mean, of the worst layer), drops and speed: means over the second half of the steps"

if (( ${#regressions[@]} > 0 )); then
  echo
  printf '%-26s %16s %24s\n' regression 'squared error' 'of the likeliest expert'
  for preset in "${regressions[@]}"; do
    printf '%-26s %16.5f %24.5f\n' "$preset" "$(last_of evaluation mean_squared_error "$runs/$preset")" \
      "$(last_of evaluation best_mean_squared_error "$runs/$preset")"
  done
fi
