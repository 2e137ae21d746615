#include "trainer/activation_memory.h"

#include <algorithm>

#include "configs/moe_layers.h"
#include "configs/resolve.h"
#include "layers/feed_forward/hidden_layer.h"

namespace conclave {
namespace {

// Elements a token.
struct Kept {
  double all = 0;
  double hidden_of_experts = 0;  // of these, what `experts` computes again
};

double feed_forward(std::int64_t d_model, std::int64_t d_ff, config::Activation activation) {
  return static_cast<double>(d_model + (input_projections(activation) + 1) * d_ff);
}

Kept moe(const config::Moe& moe, std::int64_t d_model, bool has_peers) {
  const auto K = static_cast<double>(moe.top_k());
  const double hidden = K * static_cast<double>((input_projections(moe.activation()) + 1) * moe.d_ff());
  const double rows = K * static_cast<double>(d_model);
  const double routing = static_cast<double>(moe.experts()) + 2 * K + 2;
  const double jittered = moe.jitter() > 0 ? static_cast<double>(d_model) : 0;
  double all = routing + jittered + hidden + rows * (has_peers ? 4 : 2) + static_cast<double>(d_model);
  if (moe.shared_experts() > 0)
    all += feed_forward(d_model, moe.shared_experts() * moe.d_ff(), moe.activation()) -
           static_cast<double>(d_model);  // its result is the layer's
  return {all, hidden};
}

Kept block(const config::Experiment& experiment, std::int64_t layer, bool has_peers) {
  const config::Model& model = experiment.model();
  const std::int64_t queries = model.heads() * model.head_dim();
  const std::int64_t keys = model.kv_heads() * model.head_dim();
  std::int64_t attention = 4 * model.d_model() + 2;  // two norms, the sum, the result
  attention += 2 * queries + 2 * keys + model.heads();
  if (model.qk_norm()) attention += queries + keys + model.heads() + model.kv_heads();
  Kept kept = config::is_moe_layer(experiment, layer)
                  ? moe(config::moe_of_layer(experiment, layer), model.d_model(), has_peers)
                  : Kept{feed_forward(model.d_model(), model.d_ff(), model.activation()), 0};
  kept.all += static_cast<double>(attention);
  return kept;
}

}  // namespace

ActivationMemory::ActivationMemory(const config::Experiment& experiment, std::int64_t tokens,
                                   bool has_peers) {
  const auto D = static_cast<double>(experiment.model().d_model());
  const double outside_blocks = 3 * D + 1;  // embedding, final norm, gradient of the head
  none = experts = block = outside_blocks;
  for (std::int64_t layer = 0; layer < experiment.model().layers(); ++layer) {
    const Kept kept = conclave::block(experiment, layer, has_peers);
    none += kept.all;
    experts += kept.all - kept.hidden_of_experts;
    block += D;
    largest_block = std::max(largest_block, kept.all);
  }
  for (double* elements : {&none, &experts, &block, &largest_block})
    *elements *= static_cast<double>(tokens) * sizeof(float);
}

double ActivationMemory::of(config::Train::Recompute recompute) const {
  switch (recompute) {
    case config::Train::none:
      return none;
    case config::Train::experts:
      return experts;
    case config::Train::block:
      return block + largest_block;
  }
  return none;
}

}  // namespace conclave
