// The arguments of softmax_top_k and sigmoid_top_k, which name what they share alike, as their kernels take
// them.
#pragma once

#include "layers/cuda/kernels.h"
#include "layers/ops/select_top_k.h"

namespace conclave::cuda {

template <class Args>
TopK top_k_of(const Args& args, const GroupScratch& scratch) {
  const bool limits = args.groups.limits();
  return {.tokens = args.logits.extent(0),
          .experts_count = args.logits.extent(1),
          .top_k = args.experts.extent(1),
          .normalize = args.normalize,
          .scale = args.scale,
          .groups = args.groups.groups,
          .top_groups = args.groups.top_groups,
          .logits = args.logits.template data<float>(),
          .probabilities = args.probabilities.template data<float>(),
          .experts = args.experts.template data<std::int32_t>(),
          .weights = args.weights.template data<float>(),
          .log_sum_exp = args.log_sum_exp.template data<float>(),
          .entropy = args.entropy.template data<float>(),
          .group_scores = limits ? scratch.scores.template data<float>() : nullptr,
          .best_groups = limits ? scratch.best.template data<std::int32_t>() : nullptr};
}

template <class Args>
TopKBackward top_k_backward_of(const Args& args) {
  const std::int64_t tokens = args.probabilities.extent(0);
  const bool has_dprobabilities = args.dprobabilities.elements() > 0;
  return {.tokens = tokens,
          .experts_count = args.probabilities.extent(1),
          .top_k = args.experts.extent(1),
          .normalize = args.normalize,
          .scale = args.scale,
          .z_coefficient = args.z_coefficient,
          .tokens_a_row = has_dprobabilities ? tokens / args.dprobabilities.extent(0) : 1,
          .probabilities = args.probabilities.template data<float>(),
          .experts = args.experts.template data<std::int32_t>(),
          .weights = args.weights.template data<float>(),
          .log_sum_exp = args.log_sum_exp.template data<float>(),
          .dweights = args.dweights.template data<float>(),
          .dprobabilities = has_dprobabilities ? args.dprobabilities.template data<float>() : nullptr,
          .dlogits = args.dlogits.template data<float>()};
}

}  // namespace conclave::cuda
