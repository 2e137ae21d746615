#include "tests/support/moe_case.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "layers/tensor/philox.h"

namespace conclave::test {
namespace {

void fill_normal(std::vector<double>& values, std::uint64_t seed, std::string_view name, double deviation) {
  const RandomStream random(seed, name);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>(deviation * random.normal(i));
  }
}

}  // namespace

MoeCase make_moe_case(const reference::MoeSizes& sizes, std::uint64_t seed) {
  MoeCase moe{.sizes = sizes, .experiment = {}, .tensors = reference::MoeTensors<double>(sizes), .dy = {}};
  moe.experiment.mutable_model()->set_d_model(static_cast<std::int64_t>(sizes.d_model));
  config::Moe& config = *moe.experiment.mutable_moe();
  config.set_experts(static_cast<std::int64_t>(sizes.experts));
  config.set_top_k(static_cast<std::int64_t>(sizes.top_k));
  config.set_d_ff(static_cast<std::int64_t>(sizes.d_ff));
  config.set_shared_experts(static_cast<std::int64_t>(sizes.shared_d_ff / sizes.d_ff));
  config.set_shared_gate(sizes.shared_gate);
  config.set_activation(sizes.activation);
  config.set_normalize_top_k(sizes.normalize);
  config.set_capacity_factor(0);  // dropless
  config.set_drop(sizes.drop_smallest ? config::Moe::probability : config::Moe::position);
  config.set_renormalize_after_drop(sizes.renormalize);
  config.set_balance_loss(0);
  config.set_z_loss(0);

  // Activations of order one on the whole way.
  const double input_deviation = 1 / std::sqrt(static_cast<double>(sizes.d_model));
  const double hidden_deviation = 1 / std::sqrt(static_cast<double>(sizes.d_ff));
  fill_normal(moe.tensors.x, seed, "x", 1);
  fill_normal(moe.tensors.router, seed, "router", input_deviation);
  fill_normal(moe.tensors.gate_up, seed, "gate_up", input_deviation);
  fill_normal(moe.tensors.down, seed, "down", hidden_deviation);
  fill_normal(moe.tensors.shared_gate_up, seed, "shared_gate_up", input_deviation);
  fill_normal(moe.tensors.shared_down, seed, "shared_down", hidden_deviation);
  fill_normal(moe.tensors.shared_gate, seed, "shared_gate", input_deviation);
  moe.dy.resize(sizes.tokens * sizes.d_model);
  fill_normal(moe.dy, seed, "dy", 1);
  return moe;
}

reference::MoeChoices choose_without_near_ties(const MoeCase& moe) {
  const auto bounded = moe.tensors.as<Bounded>();
  const auto& s = moe.sizes;
  double largest_error = 0;
  for (std::size_t t = 0; t < s.tokens; ++t) {
    for (std::size_t e = 0; e < s.experts; ++e) {
      const Bounded logit =
          reference::dot(&bounded.x[t * s.d_model], &bounded.router[e * s.d_model], s.d_model);
      largest_error = std::max(largest_error, logit.error());
    }
  }
  const reference::MoeChoices choices = reference::choose(s, moe.tensors);
  EXPECT_GT(choices.smallest_gap, 2 * largest_error) << "rounding might change a choice: take another seed";
  return choices;
}

MoeCaseLayer::MoeCaseLayer(const MoeCase& moe, const ProcessGrid& grid)
    : moe_(moe), layer_(moe.experiment, "moe", grid) {
  context_.arena = &arena_;
  context_.grid = &grid;
  context_.clock = &clock_;
  // A step has tokens, even where this micro-batch has none on any rank.
  context_.batch.global_sequences = std::max<std::int64_t>(static_cast<std::int64_t>(moe.sizes.tokens), 1);
  auto tensors = moe.tensors;
  for (Parameter* parameter : parameters()) {
    const auto local =
        rows_of(tensor_of(tensors, parameter->name()), parameter->global_shape()[0], parameter->local_rows());
    std::ranges::copy(local, parameter->mutable_value().values<float>().begin());
  }
}

void MoeCaseLayer::run(Range tokens, bool training) {
  const auto all_tokens = static_cast<std::int64_t>(moe_.sizes.tokens);
  const Shape shape{tokens.size(), static_cast<std::int64_t>(moe_.sizes.d_model)};
  const auto x = rows_of(moe_.tensors.x, all_tokens, tokens);
  const auto dy = rows_of(moe_.dy, all_tokens, tokens);
  x_.assign(x.begin(), x.end());
  dy_.assign(dy.begin(), dy.end());
  context_.training = training;
  context_.batch.sequences = tokens.size();
  context_.batch.sequence_length = 1;
  context_.batch.most_sequences = static_cast<std::int64_t>(moe_.sizes.tokens);  // no rank has more
  arena_.reset();

  const auto y = layer_.forward(context_, tensor_view(std::span<const float>(x_), shape)).values<float>();
  y_.assign(y.begin(), y.end());
  dx_.clear();
  if (!training) return;
  const auto dx = layer_.backward(context_, tensor_view(std::span<const float>(dy_), shape)).values<float>();
  dx_.assign(dx.begin(), dx.end());
}

std::vector<Parameter*> MoeCaseLayer::parameters() {
  std::vector<Parameter*> parameters;
  layer_.collect_parameters(parameters);
  return parameters;
}

void expect_within_bounds(std::span<const float> actual, std::span<const Bounded> expected,
                          const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    ASSERT_TRUE(std::abs(actual[i] - expected[i].value()) <= expected[i].error())
        << what << "[" << i << "] = " << actual[i] << ", expected " << expected[i].value() << " within "
        << expected[i].error();
  }
}

}  // namespace conclave::test
