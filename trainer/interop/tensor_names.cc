#include "trainer/interop/tensor_names.h"

#include <fmt/format.h>

#include "configs/resolve.h"

namespace conclave {
namespace {

using Way = std::vector<TensorPiece>;

// Pieces one after the other.
class WayBuilder {
 public:
  WayBuilder& add(std::string name, Shape shape) {
    way_.push_back({std::move(name), shape, next_element_});
    next_element_ += shape.elements();
    return *this;
  }
  Way done() { return std::move(way_); }

 private:
  Way way_;
  std::int64_t next_element_ = 0;
};

TensorNames whole(std::string name, Shape shape, std::string theirs) {
  return {std::move(name), shape, Sharding::kReplicated, {{{std::move(theirs), shape, 0}}}};
}

void add_attention(const config::Model& model, const std::string& ours, const std::string& theirs,
                   std::vector<TensorNames>& names) {
  const std::int64_t width = model.d_model();
  const std::int64_t query_width = model.heads() * model.head_dim();
  const std::int64_t kv_width = model.kv_heads() * model.head_dim();
  names.push_back({ours + ".qkv",
                   {query_width + 2 * kv_width, width},
                   Sharding::kReplicated,
                   {WayBuilder()
                        .add(theirs + ".q_proj.weight", {query_width, width})
                        .add(theirs + ".k_proj.weight", {kv_width, width})
                        .add(theirs + ".v_proj.weight", {kv_width, width})
                        .done()}});
  names.push_back(whole(ours + ".out", {width, query_width}, theirs + ".o_proj.weight"));
  if (!model.qk_norm()) return;
  const bool over_width = model.qk_norm_over() == config::Model::width;
  names.push_back(
      whole(ours + ".q_norm", {over_width ? query_width : model.head_dim()}, theirs + ".q_norm.weight"));
  names.push_back(
      whole(ours + ".k_norm", {over_width ? kv_width : model.head_dim()}, theirs + ".k_norm.weight"));
}

void add_dense_feed_forward(const config::Model& model, const std::string& ours, const std::string& theirs,
                            std::vector<TensorNames>& names) {
  const std::int64_t width = model.d_model();
  const std::int64_t hidden = model.d_ff();
  names.push_back({ours + ".gate_up",
                   {2 * hidden, width},
                   Sharding::kReplicated,
                   {WayBuilder()
                        .add(theirs + ".gate_proj.weight", {hidden, width})
                        .add(theirs + ".up_proj.weight", {hidden, width})
                        .done()}});
  names.push_back(whole(ours + ".down", {width, hidden}, theirs + ".down_proj.weight"));
}

// What the three matrices of an expert are called.
struct ExpertWords {
  const char* gate;
  const char* up;
  const char* down;
};
constexpr ExpertWords kMixtralWords{"w1", "w3", "w2"};
constexpr ExpertWords kPlainWords{"gate_proj", "up_proj", "down_proj"};

Way expert_gates_and_ups(const config::Moe& moe, std::int64_t width, const std::string& theirs,
                         const ExpertWords& words) {
  WayBuilder way;
  for (std::int64_t e = 0; e < moe.experts(); ++e) {
    way.add(fmt::format("{}.experts.{}.{}.weight", theirs, e, words.gate), {moe.d_ff(), width});
    way.add(fmt::format("{}.experts.{}.{}.weight", theirs, e, words.up), {moe.d_ff(), width});
  }
  return way.done();
}

Way expert_downs(const config::Moe& moe, std::int64_t width, const std::string& theirs,
                 const ExpertWords& words) {
  WayBuilder way;
  for (std::int64_t e = 0; e < moe.experts(); ++e)
    way.add(fmt::format("{}.experts.{}.{}.weight", theirs, e, words.down), {width, moe.d_ff()});
  return way.done();
}

void add_moe(const config::Moe& moe, std::int64_t width, Architecture architecture, const std::string& ours,
             const std::string& block, std::vector<TensorNames>& names) {
  // Mixtral's files have names of their own; newer code calls the same things as the others do.
  struct Style {
    std::string prefix;
    ExpertWords words;
  };
  std::vector<Style> styles{{block + ".mlp", kPlainWords}};
  if (architecture == Architecture::kMixtral)
    styles.insert(styles.begin(), {block + ".block_sparse_moe", kMixtralWords});

  TensorNames router{ours + ".router.weight", {moe.experts(), width}, Sharding::kReplicated, {}};
  TensorNames gate_up{
      ours + ".experts.gate_up", {moe.experts(), 2 * moe.d_ff(), width}, Sharding::kExpert, {}};
  TensorNames down{ours + ".experts.down", {moe.experts(), width, moe.d_ff()}, Sharding::kExpert, {}};
  for (const auto& [prefix, words] : styles) {
    router.ways.push_back({{prefix + ".gate.weight", router.shape, 0}});
    gate_up.ways.push_back(expert_gates_and_ups(moe, width, prefix, words));
    down.ways.push_back(expert_downs(moe, width, prefix, words));
  }
  for (const auto& [prefix, words] : styles) {
    gate_up.ways.push_back({{prefix + ".experts.gate_up_proj", gate_up.shape, 0}});
    down.ways.push_back({{prefix + ".experts.down_proj", down.shape, 0}});
  }
  names.insert(names.end(), {std::move(router), std::move(gate_up), std::move(down)});
}

}  // namespace

std::vector<TensorNames> tensor_names(const config::Experiment& experiment, Architecture architecture) {
  const config::Model& model = experiment.model();
  const config::Moe moe = exported_moe(experiment);
  const Shape norm{model.d_model()};
  const Shape vocabulary{model.vocab_size(), model.d_model()};

  std::vector<TensorNames> names{whole("embedding.weight", vocabulary, "model.embed_tokens.weight")};
  for (std::int64_t layer = 0; layer < model.layers(); ++layer) {
    const std::string ours = fmt::format("layers.{}", layer);
    const std::string theirs = fmt::format("model.layers.{}", layer);
    names.push_back(whole(ours + ".attention_norm.weight", norm, theirs + ".input_layernorm.weight"));
    add_attention(model, ours + ".attention", theirs + ".self_attn", names);
    names.push_back(
        whole(ours + ".feed_forward_norm.weight", norm, theirs + ".post_attention_layernorm.weight"));
    if (config::is_moe_layer(experiment, layer)) {
      add_moe(moe, model.d_model(), architecture, ours + ".moe", theirs, names);
    } else {
      add_dense_feed_forward(model, ours + ".feed_forward", theirs + ".mlp", names);
    }
  }
  names.push_back(whole("final_norm.weight", norm, "model.norm.weight"));
  if (!model.tie_embeddings()) names.push_back(whole("head.weight", vocabulary, "lm_head.weight"));
  return names;
}

}  // namespace conclave
