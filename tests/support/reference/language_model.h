// The transformer block and the language model put together from the references of their parts, for double
// and std::complex<double>. Parameters go by the names that checkpoints give them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "configs/resolve.h"
#include "configs/run.pb.h"
#include "tests/support/reference/attention_module.h"
#include "tests/support/reference/balance_loss.h"
#include "tests/support/reference/cross_entropy.h"
#include "tests/support/reference/linear.h"
#include "tests/support/reference/moe.h"
#include "tests/support/reference/rms_norm.h"
#include "tests/support/reference/softmax_top_k.h"
#include "tests/support/reference/swiglu.h"

namespace conclave::test {

template <class T>
using NamedTensors = std::map<std::string, std::vector<T>>;

// `sequences` whole sequences, of a step that has `global_sequences`.
struct ReferenceBatch {
  std::int64_t sequences = 1;
  std::int64_t sequence_length = 1;
  std::int64_t global_sequences = 1;

  std::size_t tokens() const { return static_cast<std::size_t>(sequences * sequence_length); }
  double global_tokens() const { return static_cast<double>(global_sequences * sequence_length); }
};

template <class T>
struct ReferenceBlock {
  std::vector<T> y;             // [T, D]
  T balance_terms = 0.0;        // with their coefficients, this batch's share of the step
  double smallest_gap = 1e300;  // between neighbouring logits of a router
};

template <class T>
std::vector<double> real_parts(const std::vector<T>& values) {
  std::vector<double> result;
  for (const T& value : values) result.push_back(std::real(value));
  return result;
}

template <class T>
std::vector<T> sum_of(std::vector<T> a, const std::vector<T>& b) {
  for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

template <class T>
std::vector<T> optional_tensor(const NamedTensors<T>& tensors, const std::string& name) {
  const auto found = tensors.find(name);
  return found == tensors.end() ? std::vector<T>() : found->second;
}

// `in` is gate_up [2F, D] for swiglu, else up [F, D].
template <class T>
std::vector<T> reference_feed_forward(config::Activation activation, const std::vector<T>& x,
                                      const std::vector<T>& in, const std::vector<T>& down,
                                      std::size_t d_model) {
  const std::size_t d_ff = down.size() / d_model;
  const std::vector<T> preactivation = conclave::reference::linear(x, in, d_model);
  return conclave::reference::linear(activation == config::swiglu
                                         ? conclave::reference::swiglu(preactivation, d_ff)
                                         : reference::activations(activation, preactivation),
                                     down, d_ff);
}

inline const char* reference_input_name(config::Activation activation) {
  return activation == config::swiglu ? ".gate_up" : ".up";
}

// alpha * balance + beta * z of one MoE layer with balance_scope: sequence, each sequence weighing as many
// tokens as it has among those of the step. logits [T, E].
template <class T>
T reference_balance_terms(const config::Moe& moe, const ReferenceBatch& batch, const std::vector<T>& logits,
                          const std::vector<std::size_t>& chosen) {
  const auto experts = static_cast<std::size_t>(moe.experts());
  const auto top_k = static_cast<std::size_t>(moe.top_k());
  const auto length = static_cast<std::size_t>(batch.sequence_length);
  T terms = 0.0;
  for (std::size_t first = 0; first < batch.tokens(); first += length) {
    std::vector<std::vector<T>> probabilities;
    std::vector<std::vector<std::int32_t>> choices;
    std::vector<T> log_sum_exp;
    for (std::size_t t = first; t < first + length; ++t) {
      const std::vector<T> row(&logits[t * experts], &logits[t * experts] + experts);
      choices.emplace_back(&chosen[t * top_k], &chosen[t * top_k] + top_k);
      const auto routed = reference_softmax_top_k(row, choices.back(), moe.normalize_top_k());
      probabilities.push_back(routed.probabilities);
      log_sum_exp.push_back(routed.log_sum_exp);
    }
    const double share = static_cast<double>(length) / batch.global_tokens();
    terms += share * (moe.balance_loss() * reference_balance_loss(probabilities, choices) +
                      moe.z_loss() * reference_z_loss(log_sum_exp));
  }
  return terms;
}

// The dropless MoE layer whose parameters start with `name`.
template <class T>
ReferenceBlock<T> reference_moe(const config::Experiment& experiment, const std::string& name,
                                const NamedTensors<T>& parameters, const ReferenceBatch& batch,
                                const std::vector<T>& x) {
  const config::Moe& moe = experiment.moe();
  const reference::MoeSizes sizes{.tokens = batch.tokens(),
                                  .d_model = static_cast<std::size_t>(experiment.model().d_model()),
                                  .d_ff = static_cast<std::size_t>(moe.d_ff()),
                                  .experts = static_cast<std::size_t>(moe.experts()),
                                  .top_k = static_cast<std::size_t>(moe.top_k()),
                                  .shared_d_ff = static_cast<std::size_t>(moe.shared_experts() * moe.d_ff()),
                                  .normalize = moe.normalize_top_k(),
                                  .shared_gate = moe.shared_gate(),
                                  .activation = moe.activation()};
  reference::MoeTensors<T> tensors;
  tensors.x = x;
  tensors.router = parameters.at(name + ".router.weight");
  tensors.gate_up = parameters.at(name + ".experts" + reference_input_name(moe.activation()));
  tensors.down = parameters.at(name + ".experts.down");
  tensors.shared_gate_up =
      optional_tensor(parameters, name + ".shared" + reference_input_name(moe.activation()));
  tensors.shared_down = optional_tensor(parameters, name + ".shared.down");
  tensors.shared_gate = optional_tensor(parameters, name + ".shared_gate");

  reference::MoeTensors<double> discrete;
  discrete.x = real_parts(x);
  discrete.router = real_parts(tensors.router);
  const reference::MoeChoices choices = reference::choose(sizes, discrete);

  const std::vector<T> logits = conclave::reference::linear(x, tensors.router, sizes.d_model);
  return {reference::moe_forward(sizes, choices, tensors),
          reference_balance_terms(moe, batch, logits, choices.expert), choices.smallest_gap};
}

// x [T, D] through block `layer`.
template <class T>
ReferenceBlock<T> reference_block(const config::Experiment& experiment, std::int64_t layer,
                                  const NamedTensors<T>& parameters, const ReferenceBatch& batch,
                                  const std::vector<T>& x) {
  const config::Model& model = experiment.model();
  const std::string prefix = "layers." + std::to_string(layer);
  const AttentionProblem attention{.sequences = batch.sequences,
                                   .sequence_length = batch.sequence_length,
                                   .heads = model.heads(),
                                   .kv_heads = model.kv_heads(),
                                   .head_dim = model.head_dim(),
                                   .causal = model.causal()};
  const AttentionInputs<T> inputs{
      conclave::reference::rms_norm(x, parameters.at(prefix + ".attention_norm.weight"), model.norm_eps()),
      parameters.at(prefix + ".attention.qkv"), parameters.at(prefix + ".attention.out"),
      optional_tensor(parameters, prefix + ".attention.q_norm"),
      optional_tensor(parameters, prefix + ".attention.k_norm")};
  const std::vector<T> h = sum_of(x, reference_attention_module(attention, model.d_model(), model.norm_eps(),
                                                                model.rope_theta(), inputs));
  const std::vector<T> normed =
      conclave::reference::rms_norm(h, parameters.at(prefix + ".feed_forward_norm.weight"), model.norm_eps());

  ReferenceBlock<T> block;
  if (config::is_moe_layer(experiment, layer)) {
    block = reference_moe(experiment, prefix + ".moe", parameters, batch, normed);
  } else {
    block.y = reference_feed_forward(
        model.activation(), normed,
        parameters.at(prefix + ".feed_forward" + reference_input_name(model.activation())),
        parameters.at(prefix + ".feed_forward.down"), static_cast<std::size_t>(model.d_model()));
  }
  block.y = sum_of(block.y, h);
  return block;
}

template <class T>
struct ReferenceModel {
  std::vector<T> logits;        // [T, V]
  std::vector<T> losses;        // [T], 0 where there is no target
  T training_loss = 0.0;        // sum of losses over the tokens of the step, and the balance terms
  double smallest_gap = 1e300;  // of all routers
};

template <class T>
ReferenceModel<T> reference_language_model(const config::Experiment& experiment,
                                           const NamedTensors<T>& parameters, const ReferenceBatch& batch,
                                           const std::vector<std::int32_t>& tokens,
                                           const std::vector<std::int32_t>& targets) {
  const auto d_model = static_cast<std::size_t>(experiment.model().d_model());
  const std::vector<T>& embedding = parameters.at("embedding.weight");
  std::vector<T> x;
  for (const std::int32_t token : tokens) {
    const T* row = &embedding[static_cast<std::size_t>(token) * d_model];
    x.insert(x.end(), row, row + d_model);
  }
  ReferenceModel<T> result;
  for (std::int64_t layer = 0; layer < experiment.model().layers(); ++layer) {
    ReferenceBlock<T> block = reference_block(experiment, layer, parameters, batch, x);
    x = std::move(block.y);
    result.training_loss += block.balance_terms;
    result.smallest_gap = std::min(result.smallest_gap, block.smallest_gap);
  }
  x = conclave::reference::rms_norm(x, parameters.at("final_norm.weight"), experiment.model().norm_eps());
  const bool tied = experiment.model().tie_embeddings();
  result.logits = conclave::reference::linear(x, tied ? embedding : parameters.at("head.weight"), d_model);
  result.losses = conclave::reference::cross_entropy(result.logits, targets);
  for (const T& loss : result.losses) result.training_loss += loss / batch.global_tokens();
  return result;
}

}  // namespace conclave::test
