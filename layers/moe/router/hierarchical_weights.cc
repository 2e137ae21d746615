#include "layers/moe/router/hierarchical_weights.h"

#include <algorithm>

#include "layers/cuda/arguments.h"

namespace conclave {

void multiply_weights(Context& ctx, const HierarchicalGates& gates, const GateWeightsArgs& args) {
  if (ctx.on_gpu()) {
    cuda::multiply_weights(cuda::stream_of(ctx), gates_of(gates), args.scale, args.order.data<std::int32_t>(),
                           args.experts.data<std::int32_t>(), args.weights.data<float>());
    return;
  }
  const std::int64_t K = args.order.extent(1);
  for (std::int64_t t = 0; t < gates.tokens(); ++t) {
    std::int32_t* order = args.order.data<std::int32_t>() + t * K;
    std::int32_t* experts = args.experts.data<std::int32_t>() + t * K;
    float* weights = args.weights.data<float>() + t * K;
    for (std::int64_t i = 0; i < K; ++i) {
      const HierarchicalGates::Choice choice = gates.choice(t, i);
      const float weight = args.scale * gates.group_weights.data<float>()[choice.of_group] *
                           gates.weights.data<float>()[choice.within];
      // Insertion. Comparisons with NaN are false, so NaN never breaks the order.
      const auto goes_before = [&](std::int64_t place) {
        return weight > weights[place] || (weight == weights[place] && choice.expert < experts[place]);
      };
      std::int64_t place = i;
      for (; place > 0 && goes_before(place - 1); --place) {
        order[place] = order[place - 1];
        experts[place] = experts[place - 1];
        weights[place] = weights[place - 1];
      }
      order[place] = static_cast<std::int32_t>(i);
      experts[place] = choice.expert;
      weights[place] = weight;
    }
  }
}

GateGradients multiply_weights_backward(Context& ctx, const HierarchicalGates& gates, float scale,
                                        ConstTensorView order, ConstTensorView dweights) {
  const GateGradients gradients{.group = ctx.arena->allocate(gates.group_weights.shape()),
                                .within = ctx.arena->allocate(gates.weights.shape())};
  if (ctx.on_gpu()) {
    cuda::multiply_weights_backward(cuda::stream_of(ctx), gates_of(gates), scale, order.data<std::int32_t>(),
                                    dweights.data<float>(), gradients.group.data<float>(),
                                    gradients.within.data<float>());
    return gradients;
  }
  std::ranges::fill(gradients.group.values<float>(), 0.0F);
  std::ranges::fill(gradients.within.values<float>(), 0.0F);
  const std::int64_t K = dweights.extent(1);
  for (std::int64_t i = 0; i < dweights.elements(); ++i) {
    const HierarchicalGates::Choice choice = gates.choice(i / K, order.data<std::int32_t>()[i]);
    const float dproduct = scale * dweights.data<float>()[i];
    gradients.group.data<float>()[choice.of_group] += dproduct * gates.weights.data<float>()[choice.within];
    gradients.within.data<float>()[choice.within] =
        dproduct * gates.group_weights.data<float>()[choice.of_group];
  }
  return gradients;
}

}  // namespace conclave
