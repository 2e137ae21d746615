#include "configs/rules.h"

#include <fmt/format.h>

#include <cstdint>
#include <string>

#include "configs/keys.h"

namespace conclave::config {
namespace {

// The multiples of `factor` around `value`: "96 or 128".
std::string multiples_around(std::int64_t value, std::int64_t factor) {
  const std::int64_t below = value / factor * factor;
  return below == 0 ? std::to_string(factor) : fmt::format("{} or {}", below, below + factor);
}

void check_qk_norm(const Experiment& experiment, std::vector<Violation>& broken) {
  const Model& model = experiment.model();
  if (model.qk_norm() || model.qk_norm_over() == Model::head) return;
  broken.push_back({{"model.qk_norm_over", "model.qk_norm"},
                    "model.qk_norm_over: width is nothing without a norm, and model.qk_norm is false; valid: "
                    "model.qk_norm=true, or model.qk_norm_over=head"});
}

void check_heads(const Experiment& experiment, std::vector<Violation>& broken) {
  const Model& model = experiment.model();
  const std::int64_t d_model = model.d_model();
  const std::int64_t heads = model.heads();
  if (model.kv_heads() != 0 && heads % model.kv_heads() != 0) {
    broken.push_back({{"model.kv_heads", "model.heads"},
                      fmt::format("model.kv_heads: {} does not divide model.heads, {}; valid: {}",
                                  model.kv_heads(), heads, one_of(divisors(heads, heads)))});
  }
  if (model.head_dim() != 0) {
    if (model.head_dim() % 2 != 0) {
      broken.push_back(
          {{"model.head_dim"},
           fmt::format("model.head_dim: found {}, which is odd; the rotary embedding turns pairs; "
                       "valid: {} or {}",
                       model.head_dim(), model.head_dim() - 1, model.head_dim() + 1)});
    }
  } else if (d_model % heads != 0) {
    broken.push_back(
        {{"model.d_model", "model.heads", "model.head_dim"},
         fmt::format("model.d_model: {} is not a multiple of model.heads, {}, as head_dim: auto asks for; "
                     "valid: model.d_model={}, or give model.head_dim",
                     d_model, heads, multiples_around(d_model, heads))});
  } else if (d_model / heads % 2 != 0) {
    broken.push_back(
        {{"model.d_model", "model.heads", "model.head_dim"},
         fmt::format("model.d_model: {} in {} heads gives an odd head_dim, {}; the rotary embedding turns "
                     "pairs; valid: model.d_model={}, or give an even model.head_dim",
                     d_model, heads, d_model / heads, multiples_around(d_model, 2 * heads))});
  }
}

void check_vocabulary(const Experiment& experiment, std::vector<Violation>& broken) {
  const std::int64_t vocab_size = experiment.model().vocab_size();
  const bool is_bytes = experiment.data().tokenizer() == Data::bytes;
  if (!is_bytes && vocab_size == 0) {
    broken.push_back(
        {{"model.vocab_size", "data.tokenizer"},
         "model.vocab_size: auto is not enough for data.tokenizer: pretokenized; valid: the number of "
         "token ids, such as model.vocab_size=50257 for GPT-2's"});
  }
  constexpr std::int64_t kByteValues = 256;
  const bool masked = experiment.train().objective() == Train::masked;
  const std::int64_t needed = kByteValues + (masked ? 1 : 0);
  if (is_bytes && vocab_size != 0 && vocab_size < needed) {
    broken.push_back(
        {{"model.vocab_size", "data.tokenizer", "train.objective"},
         fmt::format("model.vocab_size: {} is too small for data.tokenizer: bytes{}; valid: auto, or {} or "
                     "more",
                     vocab_size, masked ? " and the mask token of train.objective: masked" : "", needed)});
  }
}

// A causal model can't use what follows a masked token, and one that sees the next token needn't predict it.
void check_objective(const Experiment& experiment, std::vector<Violation>& broken) {
  const bool masked = experiment.train().objective() == Train::masked;
  if (experiment.model().kind() != Model::language) return;
  if (masked != experiment.model().causal()) return;
  broken.push_back(
      {{"train.objective", "model.causal"},
       masked ? "train.objective: masked predicts tokens from both sides, and model.causal is true; valid: "
                "model.causal=false, or train.objective=next_token"
              : "model.causal: false lets every token see the next one, which train.objective: next_token "
                "predicts; valid: train.objective=masked, or model.causal=true"});
}

}  // namespace

void check_model(const Experiment& experiment, std::vector<Violation>& broken) {
  check_heads(experiment, broken);
  check_qk_norm(experiment, broken);
  check_vocabulary(experiment, broken);
  check_objective(experiment, broken);
}

}  // namespace conclave::config
