#include "configs/resolve.h"

#include <algorithm>

namespace conclave::config {

void resolve(Experiment& experiment) {
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

double expert_weight_decay(const Optim& optim) {
  return optim.expert_weight_decay() < 0 ? optim.weight_decay() : optim.expert_weight_decay();
}

}  // namespace conclave::config
