#include "configs/resolve.h"

#include <algorithm>

namespace conclave::config {

namespace {

// What follows from the router alone; the rules (router_rules.h) refuse other values that were given.
void resolve_router(Moe& moe) {
  const bool is_dense = moe.router() == Moe::dense;
  if (is_dense && moe.experts() > 0) {
    moe.set_top_k(moe.experts());
    moe.set_capacity_factor(0);  // dropless
  }
  if ((is_dense || moe.router() == Moe::hash) && !moe.has_balance_loss()) moe.set_balance_loss(0);
}

}  // namespace

void resolve(Experiment& experiment) {
  resolve_router(*experiment.mutable_moe());
  Model& model = *experiment.mutable_model();
  if (model.kv_heads() == 0) model.set_kv_heads(model.heads());
  if (model.head_dim() == 0) {
    model.set_head_dim(model.d_model() / std::max<std::int64_t>(model.heads(), 1));
  }
  constexpr std::int64_t kByteVocabulary = 256;
  if (model.vocab_size() == 0 && experiment.data().tokenizer() == Data::bytes) {
    model.set_vocab_size(kByteVocabulary);
  }
}

bool is_moe_layer(const Experiment& experiment, std::int64_t layer) {
  const Moe& moe = experiment.moe();
  return moe.experts() > 0 && (layer + 1) % moe.every() == 0;
}

Betas betas(const Optim& optim) {
  if (optim.betas_size() == 2) return {optim.betas(0), optim.betas(1)};
  return {0.9, 0.95};
}

}  // namespace conclave::config
