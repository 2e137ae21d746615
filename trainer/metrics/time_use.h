// What the time of training steps went into, over all ranks.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "comm/process_grid.h"
#include "layers/step_clock.h"

namespace conclave {

// Rank-seconds: sums over ranks and steps. The parts add up to `total`.
struct TimeUse {
  double total = 0;
  double gemm = 0;
  double attention = 0;
  double exchange = 0;          // of tokens, without waiting
  double reduction = 0;         // sums over ranks, without waiting
  double exchange_waiting = 0;  // until the last rank got there
  double reduction_waiting = 0;
  double optimizer = 0;
  double data = 0;
  double other = 0;
  // What uneven experts cost: for each pass through a layer's experts, forward or backward, the time of the
  // rank that took longest less the mean over the ranks that share the experts. Where ranks wait for it, a
  // part of the waiting.
  double imbalance_tax = 0;

  void add(const TimeUse& other);
  // Name and share of the total of each part: "gemm", "attention", "exchange", "reduction", "waiting",
  // "optimizer", "data", "other".
  std::vector<std::pair<std::string, double>> shares() const;
  double exchange_share() const { return total > 0 ? (exchange + exchange_waiting) / total : 0; }
  double imbalance_tax_share() const { return total > 0 ? imbalance_tax / total : 0; }
};

// Collective over the world: the time since the clock was last reset, which it is now. Of calls that ranks
// make together, a rank waited for as long as its call took beyond that of the rank whose took least, which
// was the last to arrive. Calls are compared where every rank of a group made as many; else nothing counts as
// waiting.
TimeUse take_time_use(StepClock& clock, const ProcessGrid& grid);

// Two lines for a person, without a newline at the end.
std::string time_use_text(const TimeUse& use);

}  // namespace conclave
