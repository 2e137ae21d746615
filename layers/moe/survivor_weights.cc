#include "layers/moe/survivor_weights.h"

#include "layers/cuda/arguments.h"
#include "layers/cuda/moe_kernels.h"
#include "layers/moe/dispatch_plan.h"
#include "layers/ops/check_shape.h"

namespace conclave {
namespace {

void check(const SurvivorWeightsArgs& args) {
  check_matrix(args.weights, "weights of survivor_weights");
  CONCLAVE_CHECK_EQ(args.row_of_choice.elements(), args.weights.elements(), "choices of survivor_weights");
}

// Calls token(first choice, K, sum of the weights of its choices that have a row) for every token.
template <class Token>
void for_each_token(const SurvivorWeightsArgs& args, Token token) {
  const std::int64_t K = args.weights.extent(1);
  const float* w = args.weights.data<float>();
  const auto* row_of_choice = args.row_of_choice.data<std::int32_t>();
  for (std::int64_t t = 0; t < args.weights.extent(0); ++t) {
    float sum = 0;
    for (std::int64_t choice = t * K; choice < (t + 1) * K; ++choice) {
      if (row_of_choice[choice] != DispatchPlan::kDropped) sum += w[choice];
    }
    token(t * K, K, sum);
  }
}

}  // namespace

void survivor_weights(Context& ctx, const SurvivorWeightsArgs& args, TensorView survivors) {
  check(args);
  check_shape(survivors, args.weights.shape(), "survivors of survivor_weights");
  if (ctx.on_gpu()) {
    const Arena::Mark scratch(*ctx.arena);
    cuda::survivor_weights(cuda::stream_of(ctx), args.weights.data<float>(),
                           cuda::on_gpu<std::int32_t>(ctx, args.row_of_choice), args.scale,
                           survivors.data<float>(), args.weights.extent(0), args.weights.extent(1));
    return;
  }
  const float* w = args.weights.data<float>();
  const auto* row_of_choice = args.row_of_choice.data<std::int32_t>();
  float* v = survivors.data<float>();
  for_each_token(args, [&](std::int64_t first, std::int64_t K, float sum) {
    for (std::int64_t choice = first; choice < first + K; ++choice) {
      const bool is_left = row_of_choice[choice] != DispatchPlan::kDropped;
      v[choice] = is_left && sum != 0 ? args.scale * (w[choice] / sum) : 0.0F;
    }
  });
}

// dv[k] / dw[j] = scale / sum * (delta[k, j] - w[k] / sum).
void survivor_weights_backward(Context& ctx, const SurvivorWeightsArgs& args, ConstTensorView dsurvivors,
                               TensorView dweights) {
  check(args);
  check_shape(dsurvivors, args.weights.shape(), "dsurvivors of survivor_weights_backward");
  check_shape(dweights, args.weights.shape(), "dweights of survivor_weights_backward");
  if (ctx.on_gpu()) {
    const Arena::Mark scratch(*ctx.arena);
    cuda::survivor_weights_backward(cuda::stream_of(ctx), args.weights.data<float>(),
                                    cuda::on_gpu<std::int32_t>(ctx, args.row_of_choice), args.scale,
                                    dsurvivors.data<float>(), dweights.data<float>(), args.weights.extent(0),
                                    args.weights.extent(1));
    return;
  }
  const float* w = args.weights.data<float>();
  const auto* row_of_choice = args.row_of_choice.data<std::int32_t>();
  const float* dv = dsurvivors.data<float>();
  float* dw = dweights.data<float>();
  for_each_token(args, [&](std::int64_t first, std::int64_t K, float sum) {
    const auto is_left = [&](std::int64_t choice) {
      return sum != 0 && row_of_choice[choice] != DispatchPlan::kDropped;
    };
    float mean = 0;  // of dv, by weight
    for (std::int64_t choice = first; choice < first + K; ++choice)
      mean += is_left(choice) ? w[choice] / sum * dv[choice] : 0.0F;
    for (std::int64_t choice = first; choice < first + K; ++choice)
      dw[choice] = is_left(choice) ? args.scale / sum * (dv[choice] - mean) : 0.0F;
  });
}

}  // namespace conclave
