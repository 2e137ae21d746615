// ranks: 1 2 3 4
// The loss terms of a router don't depend on how the tokens of a micro-batch lie on ranks: each test compares
// the ranks' parts with a group of one that has all tokens.
#include "layers/moe/balance_loss.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <span>
#include <string>
#include <tuple>

#include "comm/base/partition.h"
#include "comm/self/self_communicator.h"
#include "layers/moe/router/softmax_router.h"
#include "layers/tensor/philox.h"
#include "tests/support/mpi_environment.h"
#include "tests/support/tolerance.h"

namespace conclave {
namespace {

constexpr std::int64_t D = 12;
constexpr std::int64_t S = 7;
constexpr std::int64_t E = 6;
constexpr std::int64_t K = 2;
constexpr std::int64_t kMicroSteps = 3;
constexpr std::int64_t kSequences = 5;  // of each micro-batch, over all ranks

enum class Layout { kAllRanks, kNoneOnTheLast };

// The sequences of each micro-batch on one rank: uneven, and none on the last of two or more in
// one of the layouts.
Range local_sequences(Layout layout) {
  const int rank = test::world().rank();
  const int ranks = test::world().size();
  if (layout == Layout::kAllRanks || ranks == 1) return partition(kSequences, ranks, rank);
  return rank == ranks - 1 ? Range{kSequences, kSequences} : partition(kSequences, ranks - 1, rank);
}

std::vector<float> random_values(std::string_view name, std::int64_t micro_step, std::int64_t count) {
  const RandomStream random(3, name, static_cast<std::uint64_t>(micro_step));
  std::vector<float> values;
  for (std::int64_t i = 0; i < count; ++i) values.push_back(random.normal(static_cast<std::uint64_t>(i)));
  return values;
}

config::Experiment experiment(config::Moe::BalanceScope scope) {
  config::Experiment result;
  result.mutable_model()->set_d_model(D);
  result.mutable_model()->set_init_std(0.3);
  config::Moe& moe = *result.mutable_moe();
  moe.set_experts(E);
  moe.set_top_k(K);
  moe.set_balance_loss(0.5);
  moe.set_z_loss(0.25);
  moe.set_balance_scope(scope);
  return result;
}

// One optimizer step of a router on one rank of `group`, which takes the sequences `local`
// of each micro-batch.
struct Step {
  std::vector<Routing> routings;
  std::vector<TensorView> dx;        // [T, D] of each micro-batch
  std::vector<double> balance_loss;  // raw, this rank's part, of each micro-batch
  std::vector<double> z_loss;
  std::vector<float> dw;  // [E, D]
  Arena arena;
};

void run_step(Communicator& group, Range local, config::Moe::BalanceScope scope, Step& step) {
  const ProcessGrid grid(group, 1);
  SoftmaxRouter router(experiment(scope), "router");
  Context ctx{.arena = &step.arena, .grid = &grid};
  ctx.batch.micro_steps = kMicroSteps;
  ctx.batch.sequences = local.size();
  ctx.batch.sequence_length = S;
  ctx.batch.global_sequences = kMicroSteps * kSequences;
  for (std::int64_t micro_step = 0; micro_step < kMicroSteps; ++micro_step) {
    ctx.batch.micro_step = micro_step;
    const std::vector<float> x = random_values("x", micro_step, kSequences * S * D);
    const std::vector<float> dweights = random_values("dweights", micro_step, kSequences * S * K);
    MoeStatistics statistics;
    step.routings.push_back(router.forward(
        ctx, tensor_view(std::span(x), {kSequences * S, D}).rows(local.begin * S, local.end * S),
        statistics));
    step.dx.push_back(router.backward(
        ctx, tensor_view(std::span(dweights), {kSequences * S, K}).rows(local.begin * S, local.end * S)));
    step.balance_loss.push_back(statistics.balance_loss_raw);
    step.z_loss.push_back(statistics.z_loss_raw);
  }
  std::vector<Parameter*> parameters;
  router.collect_parameters(parameters);
  const std::span<const float> dw = parameters[0]->gradient().values<float>();
  step.dw.assign(dw.begin(), dw.end());
}

// Bounds on the difference of two fp32 routers whose gemms may add up in another order for another number of
// rows: |x| < 5 and |W| < 5 * 0.3 for these few normal numbers. A probability follows its logit twice over.
const double kLogitError = 2 * test::dot_bound(D, D * 5 * 1.5);
const double kProbabilityError = 2 * kLogitError + test::dot_bound(2 * E + 40, 1);

double largest_magnitude(std::span<const float> values) {
  double largest = 0;
  for (const float value : values) largest = std::max(largest, std::abs(static_cast<double>(value)));
  return largest;
}

class RouterOverRanks : public testing::TestWithParam<std::tuple<config::Moe::BalanceScope, Layout>> {};

TEST_P(RouterOverRanks, EqualsOneRankWithAllTokens) {
  const auto [scope, layout] = GetParam();
  const Range local = local_sequences(layout);
  Step ours;
  run_step(test::world(), local, scope, ours);
  Step whole;
  const std::unique_ptr<Communicator> alone = make_self_communicator();
  run_step(*alone, {0, kSequences}, scope, whole);

  test::world().all_reduce(buffer_view(std::span(ours.balance_loss)));
  test::world().all_reduce(buffer_view(std::span(ours.z_loss)));
  test::world().all_reduce(buffer_view(std::span(ours.dw)));
  double dw_bound = 0;
  for (std::size_t micro_step = 0; micro_step < kMicroSteps; ++micro_step) {
    EXPECT_GT(whole.balance_loss[micro_step], 0);
    EXPECT_NEAR(ours.balance_loss[micro_step], whole.balance_loss[micro_step],
                kProbabilityError * whole.balance_loss[micro_step]);
    EXPECT_NEAR(ours.z_loss[micro_step], whole.z_loss[micro_step],
                kLogitError * (1 + whole.z_loss[micro_step]));  // 2 |lse| <= 1 + lse^2

    const ConstTensorView experts = whole.routings[micro_step].experts.rows(local.begin * S, local.end * S);
    EXPECT_TRUE(std::ranges::equal(ours.routings[micro_step].experts.values<std::int32_t>(),
                                   experts.values<std::int32_t>()));

    // |dlogit| <= 2 sum_k |dweight|, and the terms: 0.5 * 2 E / tokens and 0.25 * 2 lse /
    // tokens, each below 1.
    const auto dweights =
        random_values("dweights", static_cast<std::int64_t>(micro_step), kSequences * S * K);
    const double dlogit = 2 * K * largest_magnitude(dweights) + 2;
    const double dlogit_error = dlogit * (3 * kProbabilityError + test::dot_bound(E + K + 6, 1));
    const double dx_bound = 1.5 * E * (dlogit_error + 2 * test::dot_bound(E, dlogit));
    const std::span<const float> dx = ours.dx[micro_step].values<float>();
    const TensorView wanted = whole.dx[micro_step].rows(local.begin * S, local.end * S);
    for (std::size_t i = 0; i < dx.size(); ++i) EXPECT_NEAR(dx[i], wanted.values<float>()[i], dx_bound);

    constexpr std::int64_t kTokens = kSequences * S;
    const double largest_x =
        largest_magnitude(random_values("x", static_cast<std::int64_t>(micro_step), kTokens * D));
    dw_bound += kTokens * largest_x * (dlogit_error + 2 * test::dot_bound(kMicroSteps * kTokens, dlogit));
  }
  // The sum over ranks and micro-batches.
  for (std::size_t i = 0; i < ours.dw.size(); ++i) EXPECT_NEAR(ours.dw[i], whole.dw[i], dw_bound);
}

const auto kScopesAndLayouts =
    testing::Combine(testing::Values(config::Moe::batch, config::Moe::sequence, config::Moe::global_batch),
                     testing::Values(Layout::kAllRanks, Layout::kNoneOnTheLast));

std::string scope_and_layout(
    const testing::TestParamInfo<std::tuple<config::Moe::BalanceScope, Layout>>& test) {
  return config::Moe::BalanceScope_Name(std::get<0>(test.param)) +
         (std::get<1>(test.param) == Layout::kAllRanks ? "_on_all_ranks" : "_none_on_the_last");
}

INSTANTIATE_TEST_SUITE_P(Scopes, RouterOverRanks, kScopesAndLayouts, scope_and_layout);

// Different from micro-batch to micro-batch, and uneven.
std::vector<std::int32_t> uneven_choices(std::int64_t micro_step) {
  std::vector<std::int32_t> chosen;
  for (std::int64_t t = 0; t < kSequences * S; ++t)
    for (std::int64_t k = 0; k < K; ++k)
      chosen.push_back(static_cast<std::int32_t>((t * t / (micro_step + 2) + k) % E));
  return chosen;
}

struct Terms {
  std::vector<ConstTensorView> dprobabilities;  // of each micro-batch
  double balance_loss = 0;                      // raw, this rank's part
  Arena arena;
};

void run_terms(Communicator& group, Range local, config::Moe::BalanceScope scope, Terms& terms) {
  const ProcessGrid grid(group, 1);
  BalanceLoss loss(experiment(scope).moe());
  Context ctx{.arena = &terms.arena, .grid = &grid};
  ctx.batch.sequences = local.size();
  ctx.batch.sequence_length = S;
  ctx.batch.global_sequences = kMicroSteps * kSequences;
  MoeStatistics statistics;
  for (std::int64_t micro_step = 0; micro_step < kMicroSteps; ++micro_step) {
    ctx.batch.micro_step = micro_step;
    constexpr std::int64_t kTokens = kSequences * S;
    const std::vector<float> probabilities = random_values("probabilities", micro_step, kTokens * E);
    const std::vector<std::int32_t> chosen = uneven_choices(micro_step);
    const std::vector<float> log_sum_exp(static_cast<std::size_t>(kTokens), 1.0F);
    const auto own = [&](ConstTensorView all) { return all.rows(local.begin * S, local.end * S); };
    const BalanceGradient gradient =
        loss.forward(ctx, own(tensor_view(std::span(probabilities), {kTokens, E})),
                     own(tensor_view(std::span(chosen), {kTokens, K})),
                     own(tensor_view(std::span(log_sum_exp), {kTokens})), statistics);
    terms.dprobabilities.push_back(gradient.dprobabilities);
  }
  terms.balance_loss = statistics.balance_loss_raw;
}

class BalanceLossOverRanks : public RouterOverRanks {};

// Counts are integers, so that the gradient in the probabilities agrees to the last bit.
TEST_P(BalanceLossOverRanks, GradientInProbabilitiesIsBitwiseTheSame) {
  const auto [scope, layout] = GetParam();
  const Range local = local_sequences(layout);
  Terms ours;
  run_terms(test::world(), local, scope, ours);
  Terms whole;
  const std::unique_ptr<Communicator> alone = make_self_communicator();
  run_terms(*alone, {0, kSequences}, scope, whole);
  for (std::size_t micro_step = 0; micro_step < kMicroSteps; ++micro_step) {
    ConstTensorView wanted = whole.dprobabilities[micro_step];
    if (scope == config::Moe::sequence) wanted = wanted.rows(local.begin, local.end);
    EXPECT_TRUE(std::ranges::equal(ours.dprobabilities[micro_step].values<float>(), wanted.values<float>()))
        << "micro-batch " << micro_step;
  }
  // The same terms of magnitude 1, added in double in another order.
  test::world().all_reduce(buffer_view(std::span(&ours.balance_loss, 1)));
  constexpr double kTerms = kMicroSteps * kSequences * S * E;
  EXPECT_NEAR(ours.balance_loss, whole.balance_loss, kTerms * kTerms * 1e-16);
}

INSTANTIATE_TEST_SUITE_P(Scopes, BalanceLossOverRanks, kScopesAndLayouts, scope_and_layout);

}  // namespace
}  // namespace conclave
