#include "layers/cuda/elements.cuh"
#include "layers/cuda/launch.cuh"
#include "layers/cuda/select_top_k.cuh"

namespace conclave::cuda {
namespace {

// ln(e^a + e^b), a >= b.
struct LogAddExp {
  __device__ float operator()(float a, float b) const { return a + log1pf(expf(b - a)); }
};

// A warp a token; a lane has the experts, and of the chosen the places, with its number modulo kWarp.
__global__ void softmax_top_k_kernel(TopK args) {
  const std::int64_t t = global_thread() / kWarp;
  if (t >= args.tokens) return;
  const std::int64_t experts = args.experts_count;
  const std::int64_t top_k = args.top_k;
  const float* logits = args.logits + t * experts;
  float* probabilities = args.probabilities + t * experts;
  std::int32_t* chosen = args.experts + t * top_k;
  float* weights = args.weights + t * top_k;
  select_top_k(logits, experts, top_k, groups_of_token(args, t), LogAddExp(), chosen);

  const int lane = lane_of_warp();
  float largest = -INFINITY;
  for (std::int64_t e = lane; e < experts; e += kWarp) largest = fmaxf(largest, logits[e]);
  largest = max_of_warp(largest);
  float sum = 0;
  float weighted_sum = 0;  // sum_e exp(l - max) (l - max), for the entropy
  for (std::int64_t e = lane; e < experts; e += kWarp) {
    const float shifted = logits[e] - largest;
    const float exponential = expf(shifted);
    probabilities[e] = exponential;
    sum += exponential;
    weighted_sum += exponential == 0.0F ? 0.0F : exponential * shifted;  // 0 * -inf is 0 here
  }
  sum = sum_of_warp(sum);
  weighted_sum = sum_of_warp(weighted_sum);
  __syncwarp();  // lanes read the exponentials of others
  float chosen_sum = 0;
  for (std::int64_t k = lane; k < top_k; k += kWarp) chosen_sum += probabilities[chosen[k]];
  chosen_sum = sum_of_warp(chosen_sum);
  const float divisor = args.normalize ? chosen_sum : sum;
  for (std::int64_t k = lane; k < top_k; k += kWarp)
    weights[k] = args.scale * (probabilities[chosen[k]] / divisor);
  __syncwarp();
  for (std::int64_t e = lane; e < experts; e += kWarp) probabilities[e] /= sum;
  if (lane != 0) return;
  args.log_sum_exp[t] = largest + logf(sum);
  args.entropy[t] = logf(sum) - weighted_sum / sum;
}

// As softmax_top_k_cpu.cc.
__global__ void softmax_top_k_backward_kernel(TopKBackward args) {
  const std::int64_t t = global_thread() / kWarp;
  if (t >= args.tokens) return;
  const std::int64_t experts = args.experts_count;
  const std::int64_t top_k = args.top_k;
  const float* probabilities = args.probabilities + t * experts;
  const std::int32_t* chosen = args.experts + t * top_k;
  const float* weights = args.weights + t * top_k;
  const float* dweights = args.dweights + t * top_k;
  float* dlogits = args.dlogits + t * experts;

  const int lane = lane_of_warp();
  float mean_dweight = 0;
  for (std::int64_t k = lane; k < top_k; k += kWarp) mean_dweight += weights[k] * dweights[k];
  mean_dweight = sum_of_warp(mean_dweight);
  float common = 2 * args.z_coefficient * args.log_sum_exp[t] - (args.normalize ? 0.0F : mean_dweight);
  const float* dprobabilities =
      args.dprobabilities == nullptr ? nullptr : args.dprobabilities + t / args.tokens_a_row * experts;
  if (dprobabilities != nullptr) {
    float mean_dprobability = 0;
    for (std::int64_t e = lane; e < experts; e += kWarp)
      mean_dprobability += probabilities[e] * dprobabilities[e];
    common -= sum_of_warp(mean_dprobability);
  }
  for (std::int64_t e = lane; e < experts; e += kWarp)
    dlogits[e] = probabilities[e] * ((dprobabilities == nullptr ? 0.0F : dprobabilities[e]) + common);
  __syncwarp();  // lanes add to what others wrote; the chosen are different
  const float among_chosen = args.normalize ? mean_dweight / args.scale : 0.0F;
  for (std::int64_t k = lane; k < top_k; k += kWarp) {
    if (chosen[k] >= 0) dlogits[chosen[k]] += weights[k] * (dweights[k] - among_chosen);
  }
}

}  // namespace

void softmax_top_k(StreamHandle stream, const TopK& args) {
  if (args.tokens == 0) return;
  launch("softmax_top_k", stream, blocks_for(args.tokens * kWarp), kThreads, 0, softmax_top_k_kernel, args);
}

void softmax_top_k_backward(StreamHandle stream, const TopKBackward& args) {
  if (args.tokens == 0) return;
  launch("softmax_top_k_backward", stream, blocks_for(args.tokens * kWarp), kThreads, 0,
         softmax_top_k_backward_kernel, args);
}

}  // namespace conclave::cuda
