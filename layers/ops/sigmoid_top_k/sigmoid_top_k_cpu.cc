#include <algorithm>
#include <cmath>
#include <limits>

#include "layers/ops/sigmoid_top_k/sigmoid_top_k.h"
#include "layers/ops/vector_math.h"

namespace conclave::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// 1 / (e^-shift sigmoid(l)) for a shift of at most 0. In shares the shift cancels; with the largest logit,
// where that is negative, no share underflows with its sigmoid.
inline float inverse_score(float logit, float shift, float exp_shift) {
  return exp_shift + vector_exp(shift - logit);
}

// The weights of the chosen.
void weigh(const float* logits, const std::int32_t* chosen, std::int64_t top_k, bool normalize, float scale,
           float* weights) {
  float shift = 0;
  if (normalize) {
    float largest = -kInfinity;
    for (std::int64_t k = 0; k < top_k; ++k) largest = std::max(largest, logits[chosen[k]]);
    shift = std::min(largest, 0.0F);
  }
  const float exp_shift = vector_exp(shift);
  float sum = 0;
  for (std::int64_t k = 0; k < top_k; ++k) {
    const float logit = logits[chosen[k]];
    weights[k] = logit == -kInfinity ? 0.0F : 1 / inverse_score(logit, shift, exp_shift);
    sum += weights[k];
  }
  const float divisor = normalize ? sum : 1.0F;
  for (std::int64_t k = 0; k < top_k; ++k) weights[k] = scale * (weights[k] / divisor);
}

}  // namespace

void sigmoid_top_k(const SigmoidTopKArgs& args, const GroupScratch& scratch) {
  const std::int64_t tokens = args.logits.extent(0);
  const std::int64_t experts = args.logits.extent(1);
  const std::int64_t top_k = args.experts.extent(1);
  const float* all_logits = args.logits.data<float>();
  const float* bias = args.bias.data<float>();
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

    float* biased = probabilities;  // s + b, until the choice is made
    float largest = -kInfinity;
#pragma omp simd reduction(max : largest)
    for (std::int64_t e = 0; e < experts; ++e) {
      biased[e] = logits[e] == -kInfinity ? -kInfinity : vector_sigmoid(logits[e]) + bias[e];
      largest = std::max(largest, logits[e]);
    }
    if (groups.limits()) {
      select_top_k_of_groups(
          biased, experts, top_k, groups, [](float a, float b) { return a + b; },
          all_group_scores + t * groups.groups, all_best_groups + t * groups.top_groups, chosen);
    } else {
      select_top_k(biased, experts, top_k, chosen);
    }
    weigh(logits, chosen, top_k, args.normalize, args.scale, weights);

    const float shift = std::min(largest, 0.0F);
    const float exp_shift = vector_exp(shift);
    float sum = 0;
    float exponentials = 0;
#pragma omp simd reduction(+ : sum, exponentials)
    for (std::int64_t e = 0; e < experts; ++e) {
      const float score = logits[e] == -kInfinity ? 0.0F : 1 / inverse_score(logits[e], shift, exp_shift);
      probabilities[e] = score;
      sum += score;
      exponentials += vector_exp(logits[e] - largest);
    }
    log_sum_exp[t] = largest + std::log(exponentials);
    if (!std::isfinite(log_sum_exp[t])) {  // diverged
      sum = std::numeric_limits<float>::quiet_NaN();
      std::fill_n(weights, top_k, sum);
    }
    float weighted_sum = 0;  // sum_e score ln score
    for (std::int64_t e = 0; e < experts; ++e) {
      const float score = probabilities[e];
      weighted_sum += score == 0.0F ? 0.0F : score * std::log(score);
    }
    entropy[t] = std::log(sum) - weighted_sum / sum;
#pragma omp simd
    for (std::int64_t e = 0; e < experts; ++e) probabilities[e] /= sum;
  }
}

void sigmoid_top_k_backward(const SigmoidTopKBackwardArgs& args) {
  const std::int64_t tokens = args.probabilities.extent(0);
  const std::int64_t experts = args.probabilities.extent(1);
  const std::int64_t top_k = args.experts.extent(1);
  const float* all_logits = args.logits.data<float>();
  const float* all_probabilities = args.probabilities.data<float>();
  const std::int32_t* all_chosen = args.experts.data<std::int32_t>();
  const float* all_weights = args.weights.data<float>();
  const float* all_dweights = args.dweights.data<float>();
  const float* log_sum_exp = args.log_sum_exp.data<float>();
  const bool has_dprobabilities = args.dprobabilities.elements() > 0;
  const float* all_dprobabilities = args.dprobabilities.data<float>();
  const std::int64_t tokens_a_row = has_dprobabilities ? tokens / args.dprobabilities.extent(0) : 0;
  float* all_dlogits = args.dlogits.data<float>();

  // ds = s (1 - s) dl, and shares p = s / sum s have dp = p (ds / s - sum p ds / s): with g = dL/dp this
  // gives dl = p (1 - s) (g - sum p g). Normalised weights are scale times shares among the chosen.
#pragma omp parallel for schedule(static)
  for (std::int64_t t = 0; t < tokens; ++t) {
    const float* logits = all_logits + t * experts;
    const float* probabilities = all_probabilities + t * experts;
    const std::int32_t* chosen = all_chosen + t * top_k;
    const float* weights = all_weights + t * top_k;
    const float* dweights = all_dweights + t * top_k;
    float* dlogits = all_dlogits + t * experts;

    if (has_dprobabilities) {
      const float* dprobabilities = all_dprobabilities + t / tokens_a_row * experts;
      float mean_dprobability = 0;
#pragma omp simd reduction(+ : mean_dprobability)
      for (std::int64_t e = 0; e < experts; ++e) mean_dprobability += probabilities[e] * dprobabilities[e];
#pragma omp simd
      for (std::int64_t e = 0; e < experts; ++e)
        dlogits[e] = probabilities[e] * vector_sigmoid(-logits[e]) * (dprobabilities[e] - mean_dprobability);
    } else {
      std::fill_n(dlogits, experts, 0.0F);
    }
    if (args.z_coefficient != 0) {
      const float common = 2 * args.z_coefficient * log_sum_exp[t];
#pragma omp simd
      for (std::int64_t e = 0; e < experts; ++e)
        dlogits[e] += common * vector_exp(logits[e] - log_sum_exp[t]);
    }
    float mean_dweight = 0;
    for (std::int64_t k = 0; k < top_k; ++k) mean_dweight += weights[k] * dweights[k];
    const float among_chosen = args.normalize ? mean_dweight / args.scale : 0.0F;
    for (std::int64_t k = 0; k < top_k; ++k) {
      if (chosen[k] < 0) continue;  // an empty place
      dlogits[chosen[k]] += weights[k] * vector_sigmoid(-logits[chosen[k]]) * (dweights[k] - among_chosen);
    }
  }
}

}  // namespace conclave::cpu
