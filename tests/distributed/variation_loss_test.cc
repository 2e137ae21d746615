// ranks: 1 2 4
// The importance and load terms don't depend on how the tokens of a micro-batch lie on ranks: the ranks'
// parts against a group of one that has all tokens.
#include "layers/moe/router/variation_loss.h"

#include <gtest/gtest.h>

#include "comm/base/partition.h"
#include "comm/self/self_communicator.h"
#include "layers/moe/routing.h"
#include "tests/support/mpi_environment.h"
#include "tests/support/operator_test.h"

namespace conclave {
namespace {

constexpr std::int64_t S = 6;
constexpr std::int64_t E = 5;
constexpr std::int64_t K = 2;
constexpr std::int64_t kSequences = 3;  // at 4 ranks one has none
constexpr std::int64_t T = kSequences * S;

struct Terms {
  MoeStatistics statistics;  // this rank's part
  VariationGradient gradient;
  Arena arena;
};

void run(Communicator& group, Range local, config::Moe::BalanceScope scope, Terms& terms) {
  const ProcessGrid grid(group, 1);
  config::Moe moe;
  moe.set_experts(E);
  moe.set_importance_loss(0.5);
  moe.set_load_loss(0.25);
  moe.set_balance_scope(scope);
  std::vector<std::int32_t> chosen = test::random_tokens(T * K, "chosen", E);
  std::vector<float> gates = test::random_values(T * K, "gates");
  std::vector<float> load = test::random_values(T * E, "load");
  std::vector<std::uint8_t> padding(T, 0);
  padding[3] = 1;
  std::fill_n(chosen.begin() + 3 * K, K, kNoExpert);
  std::fill_n(load.begin() + 3 * E, E, 0.0F);
  for (float& value : load) value = std::abs(value);
  for (float& value : gates) value = std::abs(value);

  Context ctx{.arena = &terms.arena, .grid = &grid};
  ctx.batch.sequences = local.size();
  ctx.batch.sequence_length = S;
  ctx.batch.global_sequences = 2 * kSequences;
  ctx.batch.global_padding_tokens = 2;
  const auto own = [&](ConstTensorView all) { return all.rows(local.begin * S, local.end * S); };
  ctx.padding = own(test::view(std::as_const(padding), {T}));
  terms.gradient = VariationLoss(moe).forward(ctx, own(test::view(std::as_const(chosen), {T, K})),
                                              own(test::view(std::as_const(gates), {T, K})),
                                              own(test::view(std::as_const(load), {T, E})), terms.statistics);
}

class VariationLossOverRanks : public testing::TestWithParam<config::Moe::BalanceScope> {};

TEST_P(VariationLossOverRanks, EqualsOneRankWithAllTokens) {
  const Range local = partition(kSequences, test::world().size(), test::world().rank());
  Terms ours;
  run(test::world(), local, GetParam(), ours);
  Terms whole;
  const auto alone = make_self_communicator();
  run(*alone, {0, kSequences}, GetParam(), whole);

  std::vector<double> raw = {ours.statistics.importance_loss_raw, ours.statistics.load_loss_raw};
  test::world().all_reduce(buffer_view(std::span(raw)));
  // Sums of some tens of doubles in another order.
  EXPECT_GT(whole.statistics.importance_loss_raw, 0);
  EXPECT_NEAR(raw[0], whole.statistics.importance_loss_raw, 1e-12);
  EXPECT_NEAR(raw[1], whole.statistics.load_loss_raw, 1e-12);
  const auto expect_equal = [&](ConstTensorView actual, ConstTensorView expected) {
    if (GetParam() == config::Moe::sequence) expected = expected.rows(local.begin, local.end);
    ASSERT_EQ(actual.shape(), expected.shape());
    for (std::size_t i = 0; i < static_cast<std::size_t>(actual.elements()); ++i)
      EXPECT_FLOAT_EQ(actual.values<float>()[i], expected.values<float>()[i]);
  };
  expect_equal(ours.gradient.dgates, whole.gradient.dgates);
  expect_equal(ours.gradient.dload, whole.gradient.dload);
}

INSTANTIATE_TEST_SUITE_P(Scopes, VariationLossOverRanks,
                         testing::Values(config::Moe::batch, config::Moe::sequence,
                                         config::Moe::global_batch),
                         [](const auto& test) { return config::Moe::BalanceScope_Name(test.param); });

}  // namespace
}  // namespace conclave
