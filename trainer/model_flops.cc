#include "trainer/model_flops.h"

#include "comm/base/error.h"
#include "configs/moe_layers.h"
#include "configs/resolve.h"
#include "layers/feed_forward/hidden_layer.h"

namespace conclave {
namespace {

std::int64_t router_matrices(const config::Moe& moe) {
  switch (moe.router()) {
    case config::Moe::hash:
      return 0;
    case config::Moe::noisy_top_k:
      return 2 * moe.experts();
    case config::Moe::hierarchical:
      return moe.experts() + moe.expert_groups();
    default:
      return moe.experts();
  }
}

}  // namespace

ModelFlops::ModelFlops(const config::Experiment& experiment) {
  const config::Model& model = experiment.model();
  CONCLAVE_CHECK(model.kind() != config::Model::mixture_regression,
                 "floating-point operations are counted for language models only");
  const std::int64_t D = model.d_model();
  const std::int64_t query_width = model.heads() * model.head_dim();
  const std::int64_t kv_width = model.kv_heads() * model.head_dim();
  head_parameters = model.vocab_size() * D;
  active_matrix_parameters = head_parameters;
  for (std::int64_t layer = 0; layer < model.layers(); ++layer) {
    active_matrix_parameters += D * (2 * query_width + 2 * kv_width);
    attention_forward += (model.causal() ? 2.0 : 4.0) * static_cast<double>(model.max_seq() * query_width);
    if (!config::is_moe_layer(experiment, layer)) {
      active_matrix_parameters += (input_projections(model.activation()) + 1) * D * model.d_ff();
      continue;
    }
    const config::Moe moe = config::moe_of_layer(experiment, layer);
    const std::int64_t projections = input_projections(moe.activation());
    const std::int64_t experts = moe.top_k() + moe.shared_experts();
    active_matrix_parameters += router_matrices(moe) * D + experts * (projections + 1) * D * moe.d_ff();
    expert_input_parameters += moe.top_k() * projections * D * moe.d_ff();
  }
}

double ModelFlops::recomputed(config::Train::Recompute recompute) const {
  switch (recompute) {
    case config::Train::none:
      return 0;
    case config::Train::experts:
      return 2 * static_cast<double>(expert_input_parameters);
    case config::Train::block:
      return 2 * static_cast<double>(active_matrix_parameters - head_parameters) + attention_forward;
  }
  return 0;
}

}  // namespace conclave
