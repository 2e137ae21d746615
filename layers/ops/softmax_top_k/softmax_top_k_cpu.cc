#include <algorithm>
#include <cmath>
#include <limits>

#include "layers/ops/softmax_top_k/softmax_top_k.h"
#include "layers/ops/vector_math.h"

namespace conclave::cpu {
namespace {

// ln(e^a + e^b), a >= b: orders groups by the sum of two probabilities, also where those underflow.
float log_add_exp(float a, float b) { return a + std::log1p(vector_exp(b - a)); }

}  // namespace

void softmax_top_k(const SoftmaxTopKArgs& args, const GroupScratch& scratch) {
  const std::int64_t tokens = args.logits.extent(0);
  const std::int64_t experts = args.logits.extent(1);
  const std::int64_t top_k = args.experts.extent(1);
  const float* all_logits = args.logits.data<float>();
  float* all_probabilities = args.probabilities.data<float>();
  std::int32_t* all_chosen = args.experts.data<std::int32_t>();
  float* all_weights = args.weights.data<float>();
  float* log_sum_exp = args.log_sum_exp.data<float>();
  float* entropy = args.entropy.data<float>();
  const GroupLimit& groups = args.groups;
  float* all_group_scores = scratch.scores.data<float>();
  std::int32_t* all_best_groups = groups.limits() ? scratch.best.data<std::int32_t>() : nullptr;

#pragma omp parallel for schedule(static)
  for (std::int64_t t = 0; t < tokens; ++t) {
    const float* logits = all_logits + t * experts;
    float* probabilities = all_probabilities + t * experts;
    std::int32_t* chosen = all_chosen + t * top_k;
    float* weights = all_weights + t * top_k;
    if (groups.limits()) {
      select_top_k_of_groups(logits, experts, top_k, groups, log_add_exp,
                             all_group_scores + t * groups.groups, all_best_groups + t * groups.top_groups,
                             chosen);
    } else {
      select_top_k(logits, experts, top_k, chosen);
    }

    float largest = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : largest)
    for (std::int64_t e = 0; e < experts; ++e) largest = std::max(largest, logits[e]);

    float sum = 0;
    float weighted_sum = 0;  // sum_e exp(l - max) (l - max), for the entropy
#pragma omp simd reduction(+ : sum, weighted_sum)
    for (std::int64_t e = 0; e < experts; ++e) {
      const float shifted = logits[e] - largest;
      const float exponential = vector_exp(shifted);
      probabilities[e] = exponential;
      sum += exponential;
      weighted_sum += exponential == 0.0F ? 0.0F : exponential * shifted;  // 0 * -inf is 0 here
    }
    float chosen_sum = 0;
    for (std::int64_t k = 0; k < top_k; ++k) chosen_sum += probabilities[chosen[k]];
    const float divisor = args.normalize ? chosen_sum : sum;
    for (std::int64_t k = 0; k < top_k; ++k) weights[k] = args.scale * (probabilities[chosen[k]] / divisor);
#pragma omp simd
    for (std::int64_t e = 0; e < experts; ++e) probabilities[e] /= sum;
    log_sum_exp[t] = largest + std::log(sum);
    entropy[t] = std::log(sum) - weighted_sum / sum;
  }
}

void softmax_top_k_backward(const SoftmaxTopKBackwardArgs& args) {
  const std::int64_t tokens = args.probabilities.extent(0);
  const std::int64_t experts = args.probabilities.extent(1);
  const std::int64_t top_k = args.experts.extent(1);
  const float* all_probabilities = args.probabilities.data<float>();
  const std::int32_t* all_chosen = args.experts.data<std::int32_t>();
  const float* all_weights = args.weights.data<float>();
  const float* all_dweights = args.dweights.data<float>();
  const float* log_sum_exp = args.log_sum_exp.data<float>();
  const bool has_dprobabilities = args.dprobabilities.elements() > 0;
  const float* all_dprobabilities = args.dprobabilities.data<float>();
  const std::int64_t tokens_a_row = has_dprobabilities ? tokens / args.dprobabilities.extent(0) : 0;
  float* all_dlogits = args.dlogits.data<float>();

  // With g = dL/dp, softmax gives dl = p (g - sum p g). Normalised weights are scale times a softmax of the
  // chosen logits alone, so that the same rule holds among them: dl = w (dw - sum w dw / scale); others are
  // part of g.
#pragma omp parallel for schedule(static)
  for (std::int64_t t = 0; t < tokens; ++t) {
    const float* probabilities = all_probabilities + t * experts;
    const std::int32_t* chosen = all_chosen + t * top_k;
    const float* weights = all_weights + t * top_k;
    const float* dweights = all_dweights + t * top_k;
    float* dlogits = all_dlogits + t * experts;

    float mean_dweight = 0;
    for (std::int64_t k = 0; k < top_k; ++k) mean_dweight += weights[k] * dweights[k];
    // d(lse)/dl = p
    float common = 2 * args.z_coefficient * log_sum_exp[t] - (args.normalize ? 0.0F : mean_dweight);

    if (has_dprobabilities) {
      const float* dprobabilities = all_dprobabilities + t / tokens_a_row * experts;
      float mean_dprobability = 0;
#pragma omp simd reduction(+ : mean_dprobability)
      for (std::int64_t e = 0; e < experts; ++e) mean_dprobability += probabilities[e] * dprobabilities[e];
      common -= mean_dprobability;
#pragma omp simd
      for (std::int64_t e = 0; e < experts; ++e) dlogits[e] = probabilities[e] * (dprobabilities[e] + common);
    } else {
#pragma omp simd
      for (std::int64_t e = 0; e < experts; ++e) dlogits[e] = probabilities[e] * common;
    }
    const float among_chosen = args.normalize ? mean_dweight / args.scale : 0.0F;
    for (std::int64_t k = 0; k < top_k; ++k) {
      if (chosen[k] >= 0) dlogits[chosen[k]] += weights[k] * (dweights[k] - among_chosen);
    }
  }
}

}  // namespace conclave::cpu
