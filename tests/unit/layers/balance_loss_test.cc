#include "layers/moe/balance_loss.h"

#include <gtest/gtest.h>

#include <complex>
#include <span>

#include "comm/self/self_communicator.h"
#include "layers/tensor/philox.h"
#include "tests/support/reference/balance_loss.h"
#include "tests/support/reference/softmax_top_k.h"

namespace conclave {
namespace {

using Complex = std::complex<double>;

config::Moe moe_config(double alpha, double beta, config::Moe::BalanceScope scope) {
  config::Moe moe;
  moe.set_balance_loss(alpha);
  moe.set_z_loss(beta);
  moe.set_balance_scope(scope);
  return moe;
}

// What a router hands over for some sequences of S tokens.
struct Decisions {
  std::int64_t sequences = 0;
  std::int64_t sequence_length = 0;
  std::int64_t experts = 0;
  std::int64_t top_k = 0;
  std::vector<float> probabilities;  // [T, E]
  std::vector<std::int32_t> chosen;  // [T, K]
  std::vector<float> log_sum_exp;    // [T]

  std::int64_t tokens() const { return sequences * sequence_length; }
  std::vector<std::vector<double>> probability_rows(std::int64_t begin, std::int64_t end) const {
    std::vector<std::vector<double>> rows;
    for (std::int64_t t = begin; t < end; ++t)
      rows.emplace_back(probabilities.begin() + t * experts, probabilities.begin() + (t + 1) * experts);
    return rows;
  }
  std::vector<std::vector<std::int32_t>> chosen_rows(std::int64_t begin, std::int64_t end) const {
    std::vector<std::vector<std::int32_t>> rows;
    for (std::int64_t t = begin; t < end; ++t)
      rows.emplace_back(chosen.begin() + t * top_k, chosen.begin() + (t + 1) * top_k);
    return rows;
  }
};

Decisions random_decisions(std::uint64_t seed, std::int64_t sequences, std::int64_t S, std::int64_t E,
                           std::int64_t K) {
  const RandomStream random(seed, "decisions");
  std::uint64_t index = 0;
  Decisions decisions{sequences, S, E, K, {}, {}, {}};
  for (std::int64_t t = 0; t < sequences * S; ++t) {
    std::vector<double> logits;
    for (std::int64_t e = 0; e < E; ++e)
      logits.push_back(random.normal(index++) + 0.2 * static_cast<double>(e));
    const auto chosen = test::reference_top_k(logits, K);
    const auto result = test::reference_softmax_top_k(logits, chosen, true);
    for (const double p : result.probabilities) decisions.probabilities.push_back(static_cast<float>(p));
    decisions.chosen.insert(decisions.chosen.end(), chosen.begin(), chosen.end());
    decisions.log_sum_exp.push_back(static_cast<float>(result.log_sum_exp));
  }
  return decisions;
}

// One rank, micro-batch by micro-batch.
class BalanceLossTest : public testing::Test {
 protected:
  BalanceGradient run(BalanceLoss& loss, const Decisions& decisions, std::int64_t micro_step,
                      std::int64_t global_sequences) {
    Context ctx{.arena = &arena_, .grid = &grid_};
    ctx.batch.micro_step = micro_step;
    ctx.batch.sequences = decisions.sequences;
    ctx.batch.sequence_length = decisions.sequence_length;
    ctx.batch.global_sequences = global_sequences;
    const std::int64_t T = decisions.tokens();
    return loss.forward(ctx, tensor_view(std::span(decisions.probabilities), {T, decisions.experts}),
                        tensor_view(std::span(decisions.chosen), {T, decisions.top_k}),
                        tensor_view(std::span(decisions.log_sum_exp), {T}), statistics_);
  }

  // Checks one row of dprobabilities for tokens [begin, end) against the complex step in the probabilities of
  // the term alpha * |A| / global_tokens * E sum f P, f counted over `counted`.
  static void expect_gradient(const Decisions& decisions, std::int64_t begin, std::int64_t end,
                              const std::vector<std::vector<std::int32_t>>& counted, double alpha,
                              double global_tokens, std::span<const float> dprobability) {
    constexpr double kStep = 1e-40;
    const auto rows = decisions.probability_rows(begin, end);
    const double share = static_cast<double>(end - begin) / global_tokens;
    for (std::size_t t = 0; t < rows.size(); t += 3)
      for (std::size_t e = 0; e < rows[t].size(); ++e) {
        std::vector<std::vector<Complex>> moved;
        for (const auto& row : rows) moved.emplace_back(row.begin(), row.end());
        moved[t][e] += Complex(0, kStep);
        const double wanted = alpha * share * test::reference_balance_loss(moved, counted).imag() / kStep;
        // Rounded to float once; the double arithmetic on both sides is far below.
        EXPECT_NEAR(dprobability[e], wanted, std::abs(wanted) * std::numeric_limits<float>::epsilon());
      }
  }

  // The reference is double too: a few hundred roundings of 1e-16.
  static constexpr double kDoubleRoundings = 1e-12;

  Arena arena_;
  std::unique_ptr<Communicator> world_ = make_self_communicator();
  ProcessGrid grid_{*world_, 1};
  MoeStatistics statistics_;
};

TEST_F(BalanceLossTest, IsOneAtPerfectBalanceForEveryTopK) {
  constexpr std::int64_t E = 8;
  for (const auto scope : {config::Moe::batch, config::Moe::sequence, config::Moe::global_batch})
    for (std::int64_t K = 1; K <= E; ++K) {
      // Token t chooses experts t, t + 1, ..., t + K - 1: every expert K times.
      // Uneven probabilities are all right.
      Decisions decisions = random_decisions(static_cast<std::uint64_t>(K), 2, E, E, K);
      for (std::int64_t t = 0; t < decisions.tokens(); ++t)
        for (std::int64_t k = 0; k < K; ++k)
          decisions.chosen[static_cast<std::size_t>(t * K + k)] = static_cast<std::int32_t>((t + k) % E);
      BalanceLoss loss(moe_config(0.01, 0, scope));
      statistics_ = {};
      run(loss, decisions, 0, 2);
      // Probabilities of a token sum to 1 within E float roundings.
      EXPECT_NEAR(statistics_.balance_loss_raw, 1, E * std::numeric_limits<float>::epsilon());
    }
}

TEST_F(BalanceLossTest, IsEWhenOneExpertTakesAll) {
  Decisions decisions{
      1, 5, 4, 1, std::vector<float>(20, 0), std::vector<std::int32_t>(5, 2), {1, 1, 1, 1, 1}};
  for (std::size_t t = 0; t < 5; ++t) decisions.probabilities[4 * t + 2] = 1;
  BalanceLoss loss(moe_config(0.01, 0, config::Moe::batch));
  const BalanceGradient gradient = run(loss, decisions, 0, 1);
  EXPECT_NEAR(statistics_.balance_loss_raw, 4, kDoubleRoundings);
  EXPECT_EQ(gradient.dprobabilities.values<float>()[0], 0);
  EXPECT_FLOAT_EQ(gradient.dprobabilities.values<float>()[2], static_cast<float>(0.01 * 4 / 5.0));
}

TEST_F(BalanceLossTest, BatchScopeMatchesDefinition) {
  for (const std::int64_t K : {1, 3, 7}) {
    const Decisions decisions = random_decisions(10, 3, 5, 7, K);
    BalanceLoss loss(moe_config(0.7, 0.2, config::Moe::batch));
    statistics_ = {};
    const BalanceGradient gradient = run(loss, decisions, 0, 9);  // 3 of the 9 sequences of the step
    const auto counted = decisions.chosen_rows(0, 15);
    EXPECT_NEAR(statistics_.balance_loss_raw,
                test::reference_balance_loss(decisions.probability_rows(0, 15), counted) / 3,
                kDoubleRoundings);
    ASSERT_EQ(gradient.dprobabilities.shape(), (Shape{1, 7}));
    expect_gradient(decisions, 0, 15, counted, 0.7, 45, gradient.dprobabilities.values<float>());

    EXPECT_NEAR(statistics_.z_loss_raw,
                test::reference_z_loss(
                    std::vector<double>(decisions.log_sum_exp.begin(), decisions.log_sum_exp.end())) /
                    3,
                kDoubleRoundings);
    EXPECT_FLOAT_EQ(gradient.z_coefficient, static_cast<float>(0.2 / 45));
  }
}

TEST_F(BalanceLossTest, SequenceScopeMatchesDefinition) {
  const Decisions decisions = random_decisions(20, 4, 6, 5, 2);
  BalanceLoss loss(moe_config(0.7, 0, config::Moe::sequence));
  const BalanceGradient gradient = run(loss, decisions, 0, 10);
  ASSERT_EQ(gradient.dprobabilities.shape(), (Shape{4, 5}));
  double wanted = 0;
  for (std::int64_t sequence = 0; sequence < 4; ++sequence) {
    const std::int64_t begin = 6 * sequence;
    const auto counted = decisions.chosen_rows(begin, begin + 6);
    wanted += test::reference_balance_loss(decisions.probability_rows(begin, begin + 6), counted) / 10;
    expect_gradient(decisions, begin, begin + 6, counted, 0.7, 60,
                    gradient.dprobabilities.rows(sequence, sequence + 1).values<float>());
  }
  EXPECT_NEAR(statistics_.balance_loss_raw, wanted, kDoubleRoundings);
}

// Over two steps of three micro-batches of different size; counts start anew with the second step.
TEST_F(BalanceLossTest, GlobalBatchScopeCountsTheStepSoFar) {
  BalanceLoss loss(moe_config(0.7, 0, config::Moe::global_batch));
  for (const std::uint64_t step : {0, 1}) {
    std::vector<std::vector<std::int32_t>> counted;
    statistics_ = {};
    double wanted = 0;
    for (std::int64_t micro_step = 0; micro_step < 3; ++micro_step) {
      const std::int64_t T = 4 * (3 - micro_step);
      const Decisions decisions =
          random_decisions(100 * step + static_cast<std::uint64_t>(micro_step), 3 - micro_step, 4, 6, 2);
      const BalanceGradient gradient = run(loss, decisions, micro_step, 6);
      for (const auto& chosen : decisions.chosen_rows(0, T)) counted.push_back(chosen);
      wanted += test::reference_balance_loss(decisions.probability_rows(0, T), counted) *
                static_cast<double>(T) / 24;
      expect_gradient(decisions, 0, T, counted, 0.7, 24, gradient.dprobabilities.values<float>());
    }
    EXPECT_NEAR(statistics_.balance_loss_raw, wanted, kDoubleRoundings);
  }
}

TEST_F(BalanceLossTest, WithoutCoefficientThereIsNoTerm) {
  BalanceLoss loss(moe_config(0, 0, config::Moe::batch));
  const BalanceGradient gradient = run(loss, random_decisions(1, 1, 4, 3, 1), 0, 1);
  EXPECT_EQ(gradient.dprobabilities.elements(), 0);
  EXPECT_EQ(gradient.z_coefficient, 0);
  EXPECT_EQ(statistics_.balance_loss_raw, 0);
  EXPECT_GT(statistics_.z_loss_raw, 0);  // costs nothing, and is worth watching
}

TEST_F(BalanceLossTest, TakesZeroTokens) {
  for (const auto scope : {config::Moe::batch, config::Moe::sequence, config::Moe::global_batch}) {
    BalanceLoss loss(moe_config(0.7, 0.1, scope));
    const Decisions none{0, 4, 3, 2, {}, {}, {}};
    const BalanceGradient gradient = run(loss, none, 0, 8);
    for (const float value : gradient.dprobabilities.values<float>()) EXPECT_EQ(value, 0);
  }
  EXPECT_EQ(statistics_.balance_loss_raw, 0);
  EXPECT_EQ(statistics_.z_loss_raw, 0);
}

TEST_F(BalanceLossTest, RefusesABatchWithoutTokensAndAnotherNumberOfThem) {
  BalanceLoss loss(moe_config(0.7, 0, config::Moe::batch));
  const Decisions decisions = random_decisions(1, 2, 4, 3, 1);
  EXPECT_THROW(run(loss, decisions, 0, 0), Error);
  Decisions wrong = decisions;
  wrong.chosen.resize(4);
  wrong.sequences = 1;  // T = 4, but 8 rows of probabilities
  EXPECT_THROW(run(loss, wrong, 0, 2), Error);
}

}  // namespace
}  // namespace conclave
