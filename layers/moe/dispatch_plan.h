// Which choice of which token goes to which row of the dispatched tokens: pure integers, no communicator.
#pragma once

#include <cstdint>
#include <vector>

#include "configs/run.pb.h"
#include "layers/moe/routing.h"

namespace conclave {

// The dispatched rows of one rank, ordered by expert (global id), then by token. R rows <= T * K choices.
// A choice is numbered t * K + k. Vectors keep their capacity from one micro-batch to the next.
struct DispatchPlan {
  std::int64_t tokens = 0;   // T
  std::int64_t top_k = 0;    // K
  std::int64_t experts = 0;  // E

  std::vector<std::int64_t> expert_offsets;  // [E + 1]: rows of expert e are [offsets[e], offsets[e + 1])
  std::vector<std::int32_t> choice_of_row;   // [R]; kNoChoice for a row that only fills up
  std::vector<std::int32_t>
      row_of_choice;  // [T * K]; kDropped where there is none: no expert chosen, or dropped
  std::vector<std::int64_t> chosen_per_expert;   // [E], before dropping
  std::vector<std::int64_t> kept_per_expert;     // [E], after dropping
  std::vector<std::int64_t> chosen_per_choice;   // [K], before dropping
  std::vector<std::int64_t> dropped_per_choice;  // [K]

  static constexpr std::int32_t kDropped = -1;
  static constexpr std::int32_t kNoChoice = -1;

  std::int64_t rows() const { return static_cast<std::int64_t>(choice_of_row.size()); }
};

// C = ceil(capacity_factor * K * T / E), the most tokens an expert takes from one rank's micro-batch; T * K
// (no limit) for capacity_factor 0, "dropless". Exact for products that are whole numbers.
std::int64_t expert_capacity(double capacity_factor, std::int64_t tokens, std::int64_t top_k,
                             std::int64_t experts);

// Fills `plan` from `routing` (experts [T, K], weights [T, K], `experts` = E). Over capacity an expert keeps
//   position:    the earliest, all first choices (in token order) before any second choice
//   probability: the largest weights; ties keep the lower token
//   batch_prioritized: as position, with the tokens in descending order of their largest weight, ties in
//   token
//                order (Riquelme et al., "Scaling vision with sparse mixture of experts", 2021). One choice
//                with normalised weights has nothing to order by: that is position
// Throws Error for an expert id that is neither kNoExpert nor in [0, experts), or T * K beyond 32 bits.
void make_dispatch_plan(const Routing& routing, std::int64_t experts, std::int64_t capacity,
                        config::Moe::Drop drop, DispatchPlan& plan);

// Throw Error for more choices than 32 bits can number, and for more rows of filled experts.
void check_choices(std::int64_t tokens, std::int64_t top_k);
void check_filled_rows(std::int64_t experts, std::int64_t capacity);

// Fills every expert of a made plan up to exactly `capacity` rows: after an expert's own rows come rows of
// kNoChoice. Throws Error if an expert has more rows, or E * capacity is beyond 32 bits.
void fill_up_to_capacity(std::int64_t capacity, DispatchPlan& plan);

}  // namespace conclave
