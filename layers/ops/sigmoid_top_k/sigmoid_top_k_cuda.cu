// As sigmoid_top_k_cpu.cc, a warp a token; a lane has the experts, and of the chosen the places, with its
// number modulo kWarp.
#include "layers/cuda/elements.cuh"
#include "layers/cuda/launch.cuh"
#include "layers/cuda/select_top_k.cuh"

namespace conclave::cuda {
namespace {

struct Sum {
  __device__ float operator()(float a, float b) const { return a + b; }
};

// 1 / (e^-shift sigmoid(l)) for a shift of at most 0, which cancels in shares and keeps them from
// underflowing.
__device__ float inverse_score(float logit, float shift, float exp_shift) {
  return exp_shift + expf(shift - logit);
}

__device__ void weigh(const float* logits, const std::int32_t* chosen, std::int64_t top_k, bool normalize,
                      float scale, float* weights) {
  const int lane = lane_of_warp();
  float shift = 0;
  if (normalize) {
    float largest = -INFINITY;
    for (std::int64_t k = lane; k < top_k; k += kWarp) largest = fmaxf(largest, logits[chosen[k]]);
    largest = max_of_warp(largest);
    shift = largest < 0.0F ? largest : 0.0F;
  }
  const float exp_shift = expf(shift);
  float sum = 0;
  for (std::int64_t k = lane; k < top_k; k += kWarp) {
    const float logit = logits[chosen[k]];
    weights[k] = logit == -INFINITY ? 0.0F : 1 / inverse_score(logit, shift, exp_shift);
    sum += weights[k];
  }
  sum = sum_of_warp(sum);
  const float divisor = normalize ? sum : 1.0F;
  for (std::int64_t k = lane; k < top_k; k += kWarp) weights[k] = scale * (weights[k] / divisor);
}

__global__ void sigmoid_top_k_kernel(TopK args, const float* bias) {
  const std::int64_t t = global_thread() / kWarp;
  if (t >= args.tokens) return;
  const std::int64_t experts = args.experts_count;
  const std::int64_t top_k = args.top_k;
  const float* logits = args.logits + t * experts;
  float* probabilities = args.probabilities + t * experts;
  std::int32_t* chosen = args.experts + t * top_k;
  float* weights = args.weights + t * top_k;

  const int lane = lane_of_warp();
  float* biased = probabilities;  // s + b, until the choice is made
  float largest = -INFINITY;
  for (std::int64_t e = lane; e < experts; e += kWarp) {
    biased[e] = logits[e] == -INFINITY ? -INFINITY : sigmoid(logits[e]) + bias[e];
    largest = fmaxf(largest, logits[e]);
  }
  largest = max_of_warp(largest);
  __syncwarp();
  select_top_k(biased, experts, top_k, groups_of_token(args, t), Sum(), chosen);
  weigh(logits, chosen, top_k, args.normalize, args.scale, weights);

  const float shift = largest < 0.0F ? largest : 0.0F;
  const float exp_shift = expf(shift);
  float sum = 0;
  float exponentials = 0;
  for (std::int64_t e = lane; e < experts; e += kWarp) {
    const float score = logits[e] == -INFINITY ? 0.0F : 1 / inverse_score(logits[e], shift, exp_shift);
    probabilities[e] = score;
    sum += score;
    exponentials += expf(logits[e] - largest);
  }
  sum = sum_of_warp(sum);
  exponentials = sum_of_warp(exponentials);
  const float log_sum_exp = largest + logf(exponentials);
  if (!(fabsf(log_sum_exp) < INFINITY)) {  // diverged
    sum = NAN;
    for (std::int64_t k = lane; k < top_k; k += kWarp) weights[k] = NAN;
  }
  float weighted_sum = 0;  // sum_e score ln score
  for (std::int64_t e = lane; e < experts; e += kWarp) {
    const float score = probabilities[e];
    weighted_sum += score == 0.0F ? 0.0F : score * logf(score);
  }
  weighted_sum = sum_of_warp(weighted_sum);
  for (std::int64_t e = lane; e < experts; e += kWarp) probabilities[e] /= sum;
  if (lane != 0) return;
  args.log_sum_exp[t] = log_sum_exp;
  args.entropy[t] = logf(sum) - weighted_sum / sum;
}

__global__ void sigmoid_top_k_backward_kernel(TopKBackward args, const float* all_logits) {
  const std::int64_t t = global_thread() / kWarp;
  if (t >= args.tokens) return;
  const std::int64_t experts = args.experts_count;
  const std::int64_t top_k = args.top_k;
  const float* logits = all_logits + t * experts;
  const float* probabilities = args.probabilities + t * experts;
  const std::int32_t* chosen = args.experts + t * top_k;
  const float* weights = args.weights + t * top_k;
  const float* dweights = args.dweights + t * top_k;
  float* dlogits = args.dlogits + t * experts;

  const int lane = lane_of_warp();
  const float* dprobabilities =
      args.dprobabilities == nullptr ? nullptr : args.dprobabilities + t / args.tokens_a_row * experts;
  float mean_dprobability = 0;
  if (dprobabilities != nullptr) {
    for (std::int64_t e = lane; e < experts; e += kWarp)
      mean_dprobability += probabilities[e] * dprobabilities[e];
    mean_dprobability = sum_of_warp(mean_dprobability);
  }
  const float common = 2 * args.z_coefficient * args.log_sum_exp[t];
  for (std::int64_t e = lane; e < experts; e += kWarp) {
    float dlogit = 0;
    if (dprobabilities != nullptr)
      dlogit = probabilities[e] * sigmoid(-logits[e]) * (dprobabilities[e] - mean_dprobability);
    if (args.z_coefficient != 0) dlogit += common * expf(logits[e] - args.log_sum_exp[t]);
    dlogits[e] = dlogit;
  }
  float mean_dweight = 0;
  for (std::int64_t k = lane; k < top_k; k += kWarp) mean_dweight += weights[k] * dweights[k];
  mean_dweight = sum_of_warp(mean_dweight);
  __syncwarp();  // lanes add to what others wrote; the chosen are different
  const float among_chosen = args.normalize ? mean_dweight / args.scale : 0.0F;
  for (std::int64_t k = lane; k < top_k; k += kWarp) {
    if (chosen[k] < 0) continue;  // an empty place
    dlogits[chosen[k]] += weights[k] * sigmoid(-logits[chosen[k]]) * (dweights[k] - among_chosen);
  }
}

}  // namespace

void sigmoid_top_k(StreamHandle stream, const TopK& args, const float* bias) {
  if (args.tokens == 0) return;
  launch("sigmoid_top_k", stream, blocks_for(args.tokens * kWarp), kThreads, 0, sigmoid_top_k_kernel, args,
         bias);
}

void sigmoid_top_k_backward(StreamHandle stream, const TopKBackward& args, const float* logits) {
  if (args.tokens == 0) return;
  launch("sigmoid_top_k_backward", stream, blocks_for(args.tokens * kWarp), kThreads, 0,
         sigmoid_top_k_backward_kernel, args, logits);
}

}  // namespace conclave::cuda
