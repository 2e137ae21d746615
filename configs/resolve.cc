#include "configs/resolve.h"

#include <algorithm>

namespace conclave::config {
namespace {

// Routers that have nothing to balance, or are balanced by construction.
bool has_no_load_balance(Moe::Router router) {
  return router == Moe::dense || router == Moe::hash || router == Moe::expert_choice;
}

}  // namespace

void resolve_router(Moe& moe) {
  const bool is_dense = moe.router() == Moe::dense;
  if (is_dense && moe.experts() > 0) {
    moe.set_top_k(moe.experts());
    moe.set_capacity_factor(0);  // dropless
  }
  if (has_no_load_balance(moe.router()) && !moe.has_balance_loss()) moe.set_balance_loss(0);
}

void clear_what_follows(Moe::Router router, Moe& moe) {
  if (has_no_load_balance(router)) moe.clear_balance_loss();
  if (router == Moe::hash) moe.clear_z_loss();
  if (router != Moe::dense) return;
  moe.clear_top_k();
  moe.clear_capacity_factor();
}

void resolve(Experiment& experiment) {
  resolve_router(*experiment.mutable_moe());
  Model& model = *experiment.mutable_model();
  if (model.kv_heads() == 0) model.set_kv_heads(model.heads());
  if (model.head_dim() == 0) {
    model.set_head_dim(model.d_model() / std::max<std::int64_t>(model.heads(), 1));
  }
  if (model.kind() == Model::mixture_regression) model.set_max_seq(1);  // a sample is one row
  constexpr std::int64_t kByteVocabulary = 256;
  if (model.vocab_size() == 0 && experiment.data().tokenizer() == Data::bytes) {
    const bool masked = experiment.train().objective() == Train::masked;
    model.set_vocab_size(kByteVocabulary + (masked ? 1 : 0));  // the last id is the mask token's
  }
}

bool is_moe_layer(const Experiment& experiment, std::int64_t layer) {
  const Moe& moe = experiment.moe();
  return moe.experts() > 0 && (layer + 1) % moe.every() == 0;
}

bool leaks_future(const Experiment& experiment) {
  const Moe& moe = experiment.moe();
  if (moe.experts() == 0 || !experiment.model().causal()) return false;
  return moe.router() == Moe::expert_choice || std::ranges::any_of(moe.layers(), [](const MoeLayers& layers) {
           return layers.router() == Moe::expert_choice;
         });
}

Betas betas(const Optim& optim) {
  if (optim.betas_size() == 2) return {optim.betas(0), optim.betas(1)};
  return {0.9, 0.95};
}

double expert_weight_decay(const Optim& optim) {
  return optim.expert_weight_decay() < 0 ? optim.weight_decay() : optim.expert_weight_decay();
}

}  // namespace conclave::config
