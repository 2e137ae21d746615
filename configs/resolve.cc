#include "configs/resolve.h"

#include <algorithm>

namespace conclave::config {

void resolve(Experiment& experiment) {
  Model& model = *experiment.mutable_model();
  if (model.kv_heads() == 0) model.set_kv_heads(model.heads());
  if (model.head_dim() == 0) {
    model.set_head_dim(model.d_model() / std::max<std::int64_t>(model.heads(), 1));
  }
  // Its load is even by construction; validate.cc refuses the term where it is asked for.
  if (experiment.moe().router() == Moe::expert_choice) experiment.mutable_moe()->set_balance_loss(0);
  constexpr std::int64_t kByteVocabulary = 256;
  if (model.vocab_size() == 0 && experiment.data().tokenizer() == Data::bytes) {
    model.set_vocab_size(kByteVocabulary);
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

}  // namespace conclave::config
