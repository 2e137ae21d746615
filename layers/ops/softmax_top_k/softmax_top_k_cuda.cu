#include "layers/cuda/elements.cuh"
#include "layers/cuda/launch.cuh"
#include "layers/cuda/select_top_k.cuh"

namespace conclave::cuda {
namespace {

// ln(e^a + e^b), a >= b.
struct LogAddExp {
  __device__ float operator()(float a, float b) const { return a + log1pf(expf(b - a)); }
};

// A thread a token: E logits are few.
__global__ void softmax_top_k_kernel(TopK args) {
  const std::int64_t t = global_thread();
  if (t >= args.tokens) return;
  const std::int64_t experts = args.experts_count;
  const std::int64_t top_k = args.top_k;
  const float* logits = args.logits + t * experts;
  float* probabilities = args.probabilities + t * experts;
  std::int32_t* chosen = args.experts + t * top_k;
  float* weights = args.weights + t * top_k;
  select_top_k(logits, experts, top_k, groups_of_token(args, t), LogAddExp(), chosen);

  float largest = -INFINITY;
  for (std::int64_t e = 0; e < experts; ++e) largest = largest < logits[e] ? logits[e] : largest;
  float sum = 0;
  float weighted_sum = 0;  // sum_e exp(l - max) (l - max), for the entropy
  for (std::int64_t e = 0; e < experts; ++e) {
    const float shifted = logits[e] - largest;
    const float exponential = expf(shifted);
    probabilities[e] = exponential;
    sum += exponential;
    weighted_sum += exponential == 0.0F ? 0.0F : exponential * shifted;  // 0 * -inf is 0 here
  }
  float chosen_sum = 0;
  for (std::int64_t k = 0; k < top_k; ++k) chosen_sum += probabilities[chosen[k]];
  const float divisor = args.normalize ? chosen_sum : sum;
  for (std::int64_t k = 0; k < top_k; ++k) weights[k] = args.scale * (probabilities[chosen[k]] / divisor);
  for (std::int64_t e = 0; e < experts; ++e) probabilities[e] /= sum;
  args.log_sum_exp[t] = largest + logf(sum);
  args.entropy[t] = logf(sum) - weighted_sum / sum;
}

// As softmax_top_k_cpu.cc.
__global__ void softmax_top_k_backward_kernel(TopKBackward args) {
  const std::int64_t t = global_thread();
  if (t >= args.tokens) return;
  const std::int64_t experts = args.experts_count;
  const std::int64_t top_k = args.top_k;
  const float* probabilities = args.probabilities + t * experts;
  const std::int32_t* chosen = args.experts + t * top_k;
  const float* weights = args.weights + t * top_k;
  const float* dweights = args.dweights + t * top_k;
  float* dlogits = args.dlogits + t * experts;

  float mean_dweight = 0;
  for (std::int64_t k = 0; k < top_k; ++k) mean_dweight += weights[k] * dweights[k];
  float common = 2 * args.z_coefficient * args.log_sum_exp[t] - (args.normalize ? 0.0F : mean_dweight);
  const float* dprobabilities =
      args.dprobabilities == nullptr ? nullptr : args.dprobabilities + t / args.tokens_a_row * experts;
  if (dprobabilities != nullptr) {
    float mean_dprobability = 0;
    for (std::int64_t e = 0; e < experts; ++e) mean_dprobability += probabilities[e] * dprobabilities[e];
    common -= mean_dprobability;
  }
  for (std::int64_t e = 0; e < experts; ++e)
    dlogits[e] = probabilities[e] * ((dprobabilities == nullptr ? 0.0F : dprobabilities[e]) + common);
  const float among_chosen = args.normalize ? mean_dweight / args.scale : 0.0F;
  for (std::int64_t k = 0; k < top_k; ++k) {
    if (chosen[k] >= 0) dlogits[chosen[k]] += weights[k] * (dweights[k] - among_chosen);
  }
}

}  // namespace

void softmax_top_k(StreamHandle stream, const TopK& args) {
  if (args.tokens == 0) return;
  launch("softmax_top_k", stream, blocks_for(args.tokens), kThreads, 0, softmax_top_k_kernel, args);
}

void softmax_top_k_backward(StreamHandle stream, const TopKBackward& args) {
  if (args.tokens == 0) return;
  launch("softmax_top_k_backward", stream, blocks_for(args.tokens), kThreads, 0,
         softmax_top_k_backward_kernel, args);
}

}  // namespace conclave::cuda
