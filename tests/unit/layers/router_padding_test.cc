// Padding in a router's batch: as if it weren't there.
#include <gtest/gtest.h>

#include <tuple>

#include "comm/self/self_communicator.h"
#include "layers/moe/router/router.h"
#include "tests/support/operator_test.h"

namespace conclave {
namespace {

using test::random_values;

constexpr std::int64_t D = 11;
constexpr std::int64_t S = 6;
constexpr std::int64_t E = 5;
constexpr std::int64_t kLengths[] = {6, 1, 4};  // of three sequences
constexpr std::int64_t kSequences = 3;
constexpr std::int64_t kReal = 11;

using Case = std::tuple<config::Moe::Router, config::Moe::BalanceScope>;

class RouterPadding : public testing::TestWithParam<Case> {
 protected:
  config::Experiment experiment() const {
    config::Experiment result;
    result.mutable_model()->set_d_model(D);
    result.mutable_model()->set_init_std(0.3);
    config::Moe& moe = *result.mutable_moe();
    moe.set_router(std::get<0>(GetParam()));
    moe.set_experts(E);
    moe.set_top_k(2);
    moe.set_capacity_factor(1);
    moe.set_balance_loss(std::get<0>(GetParam()) == config::Moe::expert_choice ? 0 : 0.5);
    moe.set_balance_scope(std::get<1>(GetParam()));
    moe.set_z_loss(0.25);
    return result;
  }
  bool by_sequence() const {
    return std::get<0>(GetParam()) == config::Moe::expert_choice ||
           std::get<1>(GetParam()) == config::Moe::sequence;
  }

  Arena arena_;
  std::unique_ptr<Communicator> world_ = make_self_communicator();
  ProcessGrid grid_{*world_, 1};
};

struct Result {
  std::vector<std::int32_t> experts;  // of real tokens, [n, K']
  std::vector<float> weights, dx, dw;
  MoeStatistics statistics;
};

template <class T>
void append_rows(std::vector<T>& to, ConstTensorView rows, std::int64_t begin, std::int64_t end) {
  const auto values = rows.rows(begin, end).values<T>();
  to.insert(to.end(), values.begin(), values.end());
}

TEST_P(RouterPadding, IsAsIfItWereNotThere) {
  const std::vector<float> x = random_values(kSequences * S * D, "x", 2.0);
  const std::int64_t width = std::get<0>(GetParam()) == config::Moe::expert_choice ? E : 2;
  const std::vector<float> dweights = random_values(kSequences * S * width, "dweights");
  const Shape x_shape{kSequences * S, D};
  const Shape w_shape{kSequences * S, width};

  // Padded.
  Result padded;
  std::vector<std::uint8_t> padding;
  for (const std::int64_t length : kLengths)
    for (std::int64_t t = 0; t < S; ++t) padding.push_back(t >= length ? 1 : 0);
  {
    const auto router = make_router(experiment(), "router");
    Context ctx{.arena = &arena_, .grid = &grid_};
    ctx.batch = {.sequences = kSequences, .sequence_length = S, .global_sequences = kSequences};
    ctx.batch.global_padding_tokens = kSequences * S - kReal;
    ctx.padding = test::view(padding, {kSequences * S});
    EXPECT_EQ(ctx.padding_tokens(), kSequences * S - kReal);
    const Routing routing = router->forward(ctx, test::view(x, x_shape), padded.statistics);
    const TensorView dx = router->backward(ctx, test::view(dweights, w_shape));
    for (std::int64_t sequence = 0; sequence < kSequences; ++sequence) {
      const std::int64_t begin = sequence * S;
      const std::int64_t end = begin + kLengths[sequence];
      append_rows(padded.experts, routing.experts, begin, end);
      append_rows(padded.weights, routing.weights, begin, end);
      append_rows(padded.dx, dx, begin, end);
      for (std::int64_t t = end; t < begin + S; ++t) {
        for (const std::int32_t expert : routing.experts.rows(t, t + 1).values<std::int32_t>())
          EXPECT_EQ(expert, kNoExpert);
        for (const float weight : routing.weights.rows(t, t + 1).values<float>()) EXPECT_EQ(weight, 0);
        for (const float value : dx.rows(t, t + 1).values<float>()) EXPECT_EQ(value, 0);
      }
    }
    std::vector<Parameter*> parameters;
    router->collect_parameters(parameters);
    padded.dw = test::copy_of(parameters[0]->gradient());
  }

  // The real tokens alone: every sequence at its own length, or all as sequences of one token.
  Result alone;
  const auto router = make_router(experiment(), "router");
  const auto run = [&](const std::vector<float>& x_part, const std::vector<float>& dweights_part,
                       std::int64_t sequences, std::int64_t length) {
    Context ctx{.arena = &arena_, .grid = &grid_};
    ctx.batch = {.sequences = sequences, .sequence_length = length, .global_sequences = kReal};
    ctx.batch.global_padding_tokens = kReal * (length - 1);
    const std::int64_t tokens = sequences * length;
    const Routing routing = router->forward(ctx, test::view(x_part, {tokens, D}), alone.statistics);
    const TensorView dx = router->backward(ctx, test::view(dweights_part, {tokens, width}));
    append_rows(alone.experts, routing.experts, 0, tokens);
    append_rows(alone.weights, routing.weights, 0, tokens);
    append_rows(alone.dx, dx, 0, tokens);
  };
  std::vector<float> all_x, all_dweights;
  for (std::int64_t sequence = 0; sequence < kSequences; ++sequence) {
    std::vector<float> x_part, dweights_part;
    append_rows(x_part, test::view(x, x_shape), sequence * S, sequence * S + kLengths[sequence]);
    append_rows(dweights_part, test::view(dweights, w_shape), sequence * S,
                sequence * S + kLengths[sequence]);
    if (by_sequence()) run(x_part, dweights_part, 1, kLengths[sequence]);
    all_x.insert(all_x.end(), x_part.begin(), x_part.end());
    all_dweights.insert(all_dweights.end(), dweights_part.begin(), dweights_part.end());
  }
  if (!by_sequence()) run(all_x, all_dweights, kReal, 1);
  std::vector<Parameter*> parameters;
  router->collect_parameters(parameters);
  alone.dw = test::copy_of(parameters[0]->gradient());

  // Products of other shapes may be added in another order: values of order one, sums of at most some tens.
  constexpr double kBound = 100 * std::numeric_limits<float>::epsilon();
  const auto expect_near = [&](const std::vector<float>& actual, const std::vector<float>& expected,
                               const char* what) {
    ASSERT_EQ(actual.size(), expected.size());
    for (std::size_t i = 0; i < actual.size(); ++i)
      EXPECT_NEAR(actual[i], expected[i], kBound * (1 + std::abs(expected[i]))) << what << " " << i;
  };
  EXPECT_EQ(padded.experts, alone.experts);
  expect_near(padded.weights, alone.weights, "weight");
  expect_near(padded.dx, alone.dx, "dx");
  expect_near(padded.dw, alone.dw, "dW");
  EXPECT_NEAR(padded.statistics.router_entropy_sum, alone.statistics.router_entropy_sum, kReal * kBound);
  EXPECT_NEAR(padded.statistics.balance_loss_raw, alone.statistics.balance_loss_raw, E * kBound);
  EXPECT_NEAR(padded.statistics.z_loss_raw, alone.statistics.z_loss_raw,
              (1 + alone.statistics.z_loss_raw) * kBound);
}

INSTANTIATE_TEST_SUITE_P(Routers, RouterPadding,
                         testing::Values(Case{config::Moe::softmax, config::Moe::batch},
                                         Case{config::Moe::softmax, config::Moe::sequence},
                                         Case{config::Moe::softmax, config::Moe::global_batch},
                                         Case{config::Moe::expert_choice, config::Moe::batch}),
                         [](const auto& tested) {
                           return config::Moe::Router_Name(std::get<0>(tested.param)) + "_" +
                                  config::Moe::BalanceScope_Name(std::get<1>(tested.param));
                         });

}  // namespace
}  // namespace conclave
