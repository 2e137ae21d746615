#include "trainer/metrics/time_use.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <span>

namespace conclave {
namespace {

// True if every rank of the group has as many calls.
bool is_comparable(std::span<const double> calls, Communicator& group) {
  std::array<std::int64_t, 2> count{static_cast<std::int64_t>(calls.size()),
                                    -static_cast<std::int64_t>(calls.size())};
  group.all_reduce(buffer_view(std::span<std::int64_t>(count)), ReduceOp::kMax);
  return count[0] == -count[1];
}

// Seconds of this rank beyond the shortest of the same call on any rank.
double waiting_seconds(std::span<const double> calls, Communicator& group) {
  if (group.size() == 1 || !is_comparable(calls, group)) return 0;
  std::vector<double> least(calls.begin(), calls.end());
  group.all_reduce(buffer_view(std::span(least)), ReduceOp::kMin);
  return std::transform_reduce(calls.begin(), calls.end(), least.begin(), 0.0, std::plus<>(), std::minus<>());
}

// Seconds that the slowest of the group took longer than the mean, call by call.
double slowest_beyond_mean(std::span<const double> calls, Communicator& group) {
  if (group.size() == 1 || !is_comparable(calls, group)) return 0;
  std::vector<double> most(calls.begin(), calls.end());
  group.all_reduce(buffer_view(std::span(most)), ReduceOp::kMax);
  std::vector<double> sum(calls.begin(), calls.end());
  group.all_reduce(buffer_view(std::span(sum)));
  return std::reduce(most.begin(), most.end()) - std::reduce(sum.begin(), sum.end()) / group.size();
}

}  // namespace

void TimeUse::add(const TimeUse& more) {
  total += more.total;
  gemm += more.gemm;
  attention += more.attention;
  exchange += more.exchange;
  reduction += more.reduction;
  exchange_waiting += more.exchange_waiting;
  reduction_waiting += more.reduction_waiting;
  optimizer += more.optimizer;
  data += more.data;
  other += more.other;
  imbalance_tax += more.imbalance_tax;
}

std::vector<std::pair<std::string, double>> TimeUse::shares() const {
  const auto share = [&](double seconds) { return total > 0 ? seconds / total : 0; };
  return {{"gemm", share(gemm)},
          {"attention", share(attention)},
          {"exchange", share(exchange)},
          {"reduction", share(reduction)},
          {"waiting", share(exchange_waiting + reduction_waiting)},
          {"optimizer", share(optimizer)},
          {"data", share(data)},
          {"other", share(other)}};
}

TimeUse take_time_use(StepClock& clock, const ProcessGrid& grid) {
  const double exchange_waiting =
      waiting_seconds(clock.calls(ComparedCall::kExchange), grid.expert_parallel());
  const double reduction_waiting = waiting_seconds(clock.calls(ComparedCall::kReduction), grid.world());
  std::array<double, kTimeParts + 3> sums{};
  for (std::size_t part = 0; part < kTimeParts; ++part)
    sums[part] = clock.seconds(static_cast<TimePart>(part));
  sums[kTimeParts] = exchange_waiting;
  sums[kTimeParts + 1] = reduction_waiting;
  // Every rank of a group has the tax of the whole group; in rank-seconds it is the time of each of them.
  sums[kTimeParts + 2] = slowest_beyond_mean(clock.calls(ComparedCall::kExperts), grid.expert_parallel());
  grid.world().all_reduce(buffer_view(std::span<double>(sums)));
  clock.reset();

  const auto of = [&](TimePart part) { return sums[static_cast<std::size_t>(part)]; };
  TimeUse use;
  use.total = std::reduce(sums.begin(), sums.begin() + kTimeParts);
  use.gemm = of(TimePart::kGemm);
  use.attention = of(TimePart::kAttention);
  use.exchange = of(TimePart::kExchange) - sums[kTimeParts];
  use.reduction = of(TimePart::kReduction) - sums[kTimeParts + 1];
  use.exchange_waiting = sums[kTimeParts];
  use.reduction_waiting = sums[kTimeParts + 1];
  use.optimizer = of(TimePart::kOptimizer);
  use.data = of(TimePart::kData);
  use.other = of(TimePart::kOther);
  use.imbalance_tax = sums[kTimeParts + 2];
  return use;
}

std::string time_use_text(const TimeUse& use) {
  std::string text = "time       ";
  for (const auto& [name, share] : use.shares()) {
    if (text.back() != ' ') text += "  ";
    text += fmt::format("{} {:.1f}%", name == "waiting" ? "waiting for the slowest rank" : name, 100 * share);
  }
  return text +
         fmt::format(
             "\n           imbalance tax {:.1f}%: the slowest rank's experts beyond the mean of all ranks",
             100 * use.imbalance_tax_share());
}

}  // namespace conclave
