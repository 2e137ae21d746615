// ranks: 1 2 3
// What the time of all ranks went into: parts, waiting and the imbalance tax, against plain arithmetic on the
// clocks of all ranks.
#include "trainer/metrics/time_use.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <thread>

#include "tests/support/mpi_environment.h"
#include "tests/support/tiny_experiment.h"
#include "trainer/train_step.h"

namespace conclave {
namespace {

using test::world;

void pass(int milliseconds) { std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds)); }

// Rank r takes longer in its own ways.
void work(StepClock& clock) {
  const int rank = world().rank();
  for (int call = 0; call < 3; ++call) {
    const Span step(&clock, "step", TimePart::kOther);
    {
      const Span experts(&clock, "experts", TimePart::kOther, ComparedCall::kExperts);
      const Span gemm(&clock, "gemm", TimePart::kGemm);
      pass(1 + 2 * ((rank + call) % 3));
    }
    {
      const Span exchange(&clock, "exchange", TimePart::kExchange, ComparedCall::kExchange);
      pass(1 + (rank + 2 * call) % 4);
    }
    const Span reduction(&clock, "reduction", TimePart::kReduction, ComparedCall::kReduction);
    pass(1 + rank);
  }
}

// [ranks][calls], on every rank.
std::vector<std::vector<double>> calls_of_all(StepClock& clock, ComparedCall call) {
  const std::span<double> own = clock.calls(call);
  std::vector<double> all(own.size() * static_cast<std::size_t>(world().size()));
  world().all_gather(buffer_view(std::span<const double>(own)), buffer_view(std::span(all))).wait();
  std::vector<std::vector<double>> by_rank;
  for (auto begin = all.begin(); begin != all.end(); begin += static_cast<std::ptrdiff_t>(own.size()))
    by_rank.emplace_back(begin, begin + static_cast<std::ptrdiff_t>(own.size()));
  return by_rank;
}

TEST(TimeUseTest, ComparesTheCallsOfRanks) {
  const ProcessGrid grid(world(), world().size());
  StepClock clock;
  work(clock);
  double waiting = 0;
  for (const ComparedCall call : {ComparedCall::kExchange, ComparedCall::kReduction}) {
    const auto calls = calls_of_all(clock, call);
    for (std::size_t i = 0; i < calls.front().size(); ++i) {
      double least = calls.front()[i];
      for (const auto& rank : calls) least = std::min(least, rank[i]);
      for (const auto& rank : calls) waiting += rank[i] - least;
    }
  }
  double tax = 0;
  const auto experts = calls_of_all(clock, ComparedCall::kExperts);
  for (std::size_t i = 0; i < experts.front().size(); ++i) {
    double most = 0;
    double sum = 0;
    for (const auto& rank : experts) {
      most = std::max(most, rank[i]);
      sum += rank[i];
    }
    tax += most - sum / world().size();
  }
  std::vector<double> seconds(kTimeParts);
  for (std::size_t part = 0; part < kTimeParts; ++part)
    seconds[part] = clock.seconds(static_cast<TimePart>(part));
  world().all_reduce(buffer_view(std::span(seconds))).wait();
  const double total = std::reduce(seconds.begin(), seconds.end());

  const TimeUse use = take_time_use(clock, grid);
  const double rounding = 1e-12 * total;
  EXPECT_NEAR(use.total, total, rounding);
  EXPECT_NEAR(use.gemm, seconds[static_cast<std::size_t>(TimePart::kGemm)], rounding);
  EXPECT_NEAR(use.exchange + use.exchange_waiting, seconds[static_cast<std::size_t>(TimePart::kExchange)],
              rounding);
  EXPECT_NEAR(use.exchange_waiting + use.reduction_waiting, waiting, rounding);
  EXPECT_NEAR(use.imbalance_tax, tax * world().size(), rounding);
  if (world().size() == 1) {
    EXPECT_EQ(use.exchange_waiting, 0);
    EXPECT_EQ(use.imbalance_tax, 0);
  } else {
    EXPECT_GT(use.exchange_waiting, 0);
    EXPECT_GT(use.imbalance_tax, 0);
  }
  double sum_of_shares = 0;
  for (const auto& [name, share] : use.shares()) sum_of_shares += share;
  EXPECT_NEAR(sum_of_shares, 1, 1e-12);
  EXPECT_EQ(clock.seconds(TimePart::kGemm), 0) << "the clock goes on from nothing";
  EXPECT_EQ(take_time_use(clock, grid).total, 0);
}

// Ranks that made different numbers of calls have nothing to compare, and none is left waiting.
TEST(TimeUseTest, UnequalNumbersOfCallsAreNoWaiting) {
  const ProcessGrid grid(world(), world().size());
  StepClock clock;
  for (int call = 0; call <= world().rank(); ++call) {
    const Span exchange(&clock, "exchange", TimePart::kExchange, ComparedCall::kExchange);
    pass(1);
  }
  const TimeUse use = take_time_use(clock, grid);
  EXPECT_EQ(use.exchange_waiting, 0);
  EXPECT_GT(use.exchange, 0);
}

// A step's spans: everything that a step is said to be made of takes some of its time.
TEST(TimeUseTest, OfATrainingStep) {
  config::Experiment experiment = test::tiny_experiment(test::tiny_text_file());
  Trainer trainer(experiment, world());
  const auto start = std::chrono::steady_clock::now();
  train_step(trainer, 0);
  double wall = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  world().all_reduce(buffer_view(std::span(&wall, 1))).wait();
  const TimeUse use = take_time_use(trainer.clock, trainer.grid);
  EXPECT_LE(use.total, wall);
  for (const double seconds : {use.gemm, use.attention, use.exchange + use.exchange_waiting,
                               use.reduction + use.reduction_waiting, use.optimizer, use.data, use.other})
    EXPECT_GT(seconds, 0);
  EXPECT_THAT(time_use_text(use),
              testing::AllOf(testing::HasSubstr("gemm "), testing::HasSubstr("imbalance tax ")));
}

}  // namespace
}  // namespace conclave
