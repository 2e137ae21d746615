// One router with the tokens of a micro-batch, against a reference of its weights and loss terms.
//
// A reference is a callable: NamedTensors<T> (the parameters by name, and "x") -> RouterReference<T>, for T =
// double and, for derivatives by complex steps, std::complex<double>. The choice of experts is constant in
// it.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <complex>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/self/self_communicator.h"
#include "layers/moe/router/router.h"
#include "tests/support/model_gradients.h"
#include "tests/support/operator_test.h"
#include "tests/support/reference/balance_loss.h"
#include "tests/support/reference/softmax_top_k.h"

namespace conclave::test {

template <class T>
struct RouterReference {
  std::vector<T> weights;  // [T, K]
  T terms = 0;             // all that the router adds to the loss
};

class RouterCase {
 public:
  static constexpr std::int64_t D = 11;
  static constexpr std::int64_t S = 5;
  static constexpr std::int64_t kGlobalSequences = 4;
  static inline const std::string kName = "layers.0.moe.router";

  // Seed 7, weights of about 0.3, alpha 0.5, beta 0.25 within each sequence.
  static config::Experiment experiment(config::Moe::Router router, std::int64_t experts, std::int64_t top_k) {
    config::Experiment result;
    result.mutable_run()->set_seed(7);
    result.mutable_model()->set_d_model(D);
    result.mutable_model()->set_init_std(0.3);
    result.mutable_model()->set_vocab_size(50);
    config::Moe& moe = *result.mutable_moe();
    moe.set_router(router);
    moe.set_experts(experts);
    moe.set_top_k(top_k);
    moe.set_balance_loss(0.5);
    moe.set_z_loss(0.25);
    moe.set_balance_scope(config::Moe::sequence);
    return result;
  }

  // Sources a, of experts 0 and the last, and b, left to the router; sequences are of the two in turn.
  static void supervise(config::Experiment& experiment) {
    for (const char* name : {"a", "b"}) experiment.mutable_data()->add_train()->set_name(name);
    config::RouterSupervision& supervision = *experiment.mutable_moe()->mutable_router_supervision();
    supervision.set_weight(0.75);
    config::SourceExperts& label = *supervision.add_sources();
    label.set_source("a");
    label.add_experts(0);
    if (experiment.moe().experts() > 1) label.add_experts(experiment.moe().experts() - 1);
  }

  // Of sequences of `length` tokens, which is at most S.
  RouterCase(const config::Experiment& described, std::int64_t sequences, std::int64_t first_sequence = 0,
             std::int64_t length = S)
      : setting(described), router(make_router(described, kName)) {
    context.arena = &arena_;
    context.grid = &grid_;
    context.batch.step = 3;
    context.batch.first_sequence = first_sequence;
    context.batch.sequences = sequences;
    context.batch.sequence_length = length;
    context.batch.global_sequences = kGlobalSequences;
    // The same values for the same tokens, however the global batch is cut.
    const auto own = [&](auto all, std::int64_t width) {
      const auto begin = all.begin() + first_sequence * S * width;
      return decltype(all)(begin, begin + sequences * length * width);
    };
    x = own(random_values(kGlobalSequences * S * D, "x"), D);
    const std::int64_t K = setting.moe().top_k();
    dweights = own(random_values(kGlobalSequences * S * K, "dweights"), K);
    token_ids = own(random_tokens(kGlobalSequences * S, "ids", 50), 1);
    context.token_ids = view(std::as_const(token_ids), {tokens()});
    for (std::int64_t i = 0; i < sequences; ++i)
      sources.push_back(static_cast<std::int32_t>((first_sequence + i) % 2));
    context.source_of_sequence = view(std::as_const(sources), {sequences});
    std::vector<ShardedTensor> state;  // a balancing bias
    router->collect_state(state);
    for (const ShardedTensor& tensor : state) {
      if (!tensor.name.ends_with(".bias")) continue;
      bias = random_values(tensor.local.elements(), tensor.name, 0.2);
      std::ranges::copy(bias, tensor.local.values<float>().begin());
    }
    router->collect_parameters(parameters);
    // Parameters that start at 0 would hide gradients.
    for (Parameter* parameter : parameters) {
      if (std::ranges::all_of(parameter->value().values<float>(), [](float v) { return v == 0; }))
        parameter->initialise_normal(11, 0.3);
    }
  }

  // Marks the last tokens of every sequence as padding.
  void pad(std::int64_t tokens_a_sequence) {
    padding.assign(static_cast<std::size_t>(tokens()), 0);
    for (std::int64_t t = 0; t < tokens(); ++t)
      padding[static_cast<std::size_t>(t)] = t % S >= S - tokens_a_sequence;
    context.padding = view(std::as_const(padding), {tokens()});
    context.batch.global_padding_tokens = kGlobalSequences * tokens_a_sequence;
    for (std::int64_t i = 0; i < tokens() * K(); ++i)  // nothing comes back from places that weren't sent
      if (context.is_padding(i / K())) dweights[static_cast<std::size_t>(i)] = 0;
  }

  Routing forward() {
    statistics = {};
    routing = router->forward(context, view(std::as_const(x), {tokens(), D}), statistics);
    return routing;
  }
  TensorView backward() { return router->backward(context, view(std::as_const(dweights), {tokens(), K()})); }

  std::int64_t tokens() const { return context.batch.tokens(); }
  std::int64_t K() const { return setting.moe().top_k(); }
  std::int64_t E() const { return setting.moe().experts(); }
  // The terms as `statistics` has them.
  double terms() const {
    const config::Moe& moe = setting.moe();
    return moe.balance_loss() * statistics.balance_loss_raw + moe.z_loss() * statistics.z_loss_raw +
           moe.importance_loss() * statistics.importance_loss_raw +
           moe.load_loss() * statistics.load_loss_raw +
           moe.router_supervision().weight() * statistics.supervision_loss_raw;
  }

  NamedTensors<double> values() const {
    NamedTensors<double> all = values_of(parameters);
    all["x"] = promoted<double>(x);
    return all;
  }
  // x W^T of one token and the parameter kName + suffix.
  template <class T>
  static std::vector<T> logits(const NamedTensors<T>& at, const std::string& suffix, std::int64_t token) {
    const std::vector<T>& all_x = at.at("x");
    const std::vector<T>& w = at.at(kName + suffix);
    std::vector<T> result(w.size() / D, T(0));
    for (std::size_t e = 0; e < result.size(); ++e)
      for (std::size_t d = 0; d < D; ++d)
        result[e] += all_x[static_cast<std::size_t>(token) * D + d] * w[e * D + d];
    return result;
  }

  // Compares choices, weights, terms and all gradients.
  template <class Reference>
  void expect_matches(const std::vector<std::vector<std::int32_t>>& chosen, const Reference& reference) {
    forward();
    ASSERT_EQ(routing.experts.shape(), (Shape{tokens(), K()}));
    ASSERT_EQ(routing.weights.shape(), (Shape{tokens(), K()}));
    for (std::int64_t t = 0; t < tokens(); ++t) {
      const auto of_token = routing.experts.rows(t, t + 1).values<std::int32_t>();
      ASSERT_EQ(std::vector<std::int32_t>(of_token.begin(), of_token.end()),
                chosen[static_cast<std::size_t>(t)])
          << "token " << t;
    }
    // How far one rounding of every input moves the reference, times the roundings of the longest sum.
    const double roundings = static_cast<double>(std::max(tokens(), D) + E()) + 16;
    const NamedTensors<double> at = values();
    const RouterReference<double> exact = reference(at);
    const RouterReference<double> moved = reference(perturbed(at));
    const double norm = norm_of(exact.weights);
    EXPECT_LE(distance(routing.weights.values<float>(), exact.weights),
              roundings * (distance(std::span<const double>(moved.weights), exact.weights) + kUnit * norm));
    EXPECT_NEAR(terms(), exact.terms,
                roundings * (std::abs(moved.terms - exact.terms) + kUnit * std::abs(exact.terms)));

    const auto loss = [&](const auto& point) {
      const auto result = reference(point);
      return weighted_sum(result.weights, dweights) + result.terms;
    };
    const ExpectedGradients expected(loss, at, roundings);
    const TensorView dx = backward();
    ASSERT_EQ(dx.shape(), (Shape{tokens(), D}));
    expected.expect_match(dx.values<float>(), "x");
    for (Parameter* parameter : parameters)
      expected.expect_match(parameter->gradient().values<float>(), parameter->name());
  }

  config::Experiment setting;
  std::unique_ptr<Router> router;
  std::vector<Parameter*> parameters;
  Context context;
  MoeStatistics statistics;
  Routing routing;
  std::vector<float> x;                 // [T, D]
  std::vector<float> dweights;          // [T, K]
  std::vector<std::int32_t> token_ids;  // [T]
  std::vector<std::uint8_t> padding;    // [T]
  std::vector<std::int32_t> sources;    // [sequences]
  std::vector<float> bias;              // [E] of a router that has one

 private:
  Arena arena_;
  std::unique_ptr<Communicator> world_ = make_self_communicator();
  ProcessGrid grid_{*world_, 1};
};

// alpha and beta times load balance and z-loss within each sequence, and the supervision, as shares of the
// global batch:
// probabilities [T][E]; chosen [T][K], kNoExpert where nothing is; squares [T], whose mean the z-loss is.
template <class T>
T reference_sequence_terms(const RouterCase& c, const std::vector<std::vector<T>>& probabilities,
                           const std::vector<std::vector<std::int32_t>>& chosen,
                           const std::vector<T>& squares) {
  const auto global_tokens = static_cast<double>(c.context.batch.global_tokens());
  T sum = 0;
  const auto length = static_cast<std::size_t>(c.context.batch.sequence_length);
  for (std::size_t begin = 0; begin < chosen.size(); begin += length) {
    std::vector<std::vector<T>> p;
    std::vector<std::vector<std::int32_t>> counted;
    for (std::size_t t = begin; t < begin + length; ++t) {
      if (c.context.is_padding(static_cast<std::int64_t>(t))) continue;
      p.push_back(probabilities[t]);
      counted.emplace_back();
      std::ranges::copy_if(chosen[t], std::back_inserter(counted.back()),
                           [](std::int32_t e) { return e >= 0; });
      sum += c.setting.moe().z_loss() / global_tokens * squares[t];
      for (const config::SourceExperts& label : c.setting.moe().router_supervision().sources()) {
        if (c.sources[begin / length] != 0) continue;  // the only label is source a's
        T probability = 0;
        for (const std::int64_t e : label.experts()) probability += p.back()[static_cast<std::size_t>(e)];
        sum -= c.setting.moe().router_supervision().weight() / global_tokens * std::log(probability);
      }
    }
    if (p.empty() || c.setting.moe().balance_loss() == 0) continue;
    sum += c.setting.moe().balance_loss() * static_cast<double>(p.size()) / global_tokens *
           reference_balance_loss(p, counted);
  }
  return sum;
}

// K empty places for padding.
inline std::vector<std::int32_t> empty_places(std::int64_t top_k) {
  return std::vector<std::int32_t>(static_cast<std::size_t>(top_k), kNoExpert);
}

}  // namespace conclave::test
