#include "trainer/parameter_count.h"

#include "configs/moe_layers.h"
#include "configs/resolve.h"
#include "layers/feed_forward/hidden_layer.h"

namespace conclave {
namespace {

// The matrices of a feed-forward: up and down, and a gate with swiglu.
std::int64_t feed_forward_matrices(std::int64_t d_model, std::int64_t d_ff, config::Activation activation) {
  return (input_projections(activation) + 1) * d_model * d_ff;
}

std::int64_t attention_parameters(const config::Model& model) {
  const std::int64_t query_width = model.heads() * model.head_dim();
  const std::int64_t kv_width = model.kv_heads() * model.head_dim();
  const std::int64_t qkv = (query_width + 2 * kv_width) * model.d_model();
  const std::int64_t out = model.d_model() * query_width;
  const bool over_width = model.qk_norm_over() == config::Model::width;
  const std::int64_t qk_norms = over_width ? query_width + kv_width : 2 * model.head_dim();
  return qkv + out + (model.qk_norm() ? qk_norms : 0);
}

std::int64_t router_parameters(const config::Moe& moe, std::int64_t d_model) {
  const std::int64_t gate = moe.experts() * d_model;
  switch (moe.router()) {
    case config::Moe::hash:
      return 0;
    case config::Moe::noisy_top_k:
      return 2 * gate;
    case config::Moe::hierarchical:
      return gate + moe.expert_groups() * d_model;
    default:
      return gate;
  }
}

// Every sample passes the gate and all experts.
ParameterCount count_regression(const config::Experiment& experiment) {
  const config::Regression& data = experiment.data().regression();
  const std::int64_t inputs = data.inputs() + 1;
  const std::int64_t expert = (2 * inputs + data.outputs()) * experiment.moe().d_ff();
  const std::int64_t all = experiment.moe().experts() * (inputs + expert);
  return {.total = all, .active = all};
}

ParameterCount feed_forward_parameters(const config::Experiment& experiment, std::int64_t layer) {
  const config::Model& model = experiment.model();
  if (!config::is_moe_layer(experiment, layer)) {
    const std::int64_t dense = feed_forward_matrices(model.d_model(), model.d_ff(), model.activation());
    return {.total = dense, .active = dense};
  }
  const config::Moe moe = config::moe_of_layer(experiment, layer);
  const std::int64_t expert = feed_forward_matrices(model.d_model(), moe.d_ff(), moe.activation());
  const std::int64_t shared_gate = moe.shared_gate() ? model.d_model() : 0;
  const std::int64_t always =
      router_parameters(moe, model.d_model()) + moe.shared_experts() * expert + shared_gate;
  return {.total = always + moe.experts() * expert, .active = always + moe.top_k() * expert};
}

}  // namespace

ParameterCount count_parameters(const config::Experiment& experiment) {
  const config::Model& model = experiment.model();
  if (model.kind() == config::Model::mixture_regression) return count_regression(experiment);
  const std::int64_t norm = model.d_model();
  const std::int64_t vocabulary_matrix = model.vocab_size() * model.d_model();
  const std::int64_t vocabulary_matrices = model.tie_embeddings() ? 1 : 2;  // embedding, head
  const std::int64_t outside_blocks = vocabulary_matrices * vocabulary_matrix + norm;

  ParameterCount count{.total = outside_blocks, .active = outside_blocks};
  for (std::int64_t layer = 0; layer < model.layers(); ++layer) {
    const std::int64_t dense = attention_parameters(model) + 2 * norm;
    const ParameterCount feed_forward = feed_forward_parameters(experiment, layer);
    count.total += dense + feed_forward.total;
    count.active += dense + feed_forward.active;
  }
  return count;
}

}  // namespace conclave
