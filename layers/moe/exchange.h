// The transport between tokens and experts: rows travel to the rank that holds their expert, and back, by
// all-to-all over the expert-parallel group.
//
//   token side    rows [R, D] of this rank's tokens, in the order of its DispatchPlan (global expert, token)
//   expert side   rows [R', D] that this rank's experts received: by local expert, then by source rank,
//                 then in the order of the source; or by source rank first, where that is asked for
//
// dispatch() carries token side to expert side, combine() carries back. They are permutations of rows over
// the group, each the inverse and so the transpose of the other: the gradient of one travels by the other.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "configs/run.pb.h"
#include "layers/context.h"
#include "layers/moe/dispatch_plan.h"

namespace conclave {

// What the rows on the expert side are ordered by first. By expert: each expert sees all of its rows at once.
// By source: the rows of each source stay together, and an expert can compute exactly what it would have
// computed on the source's own rank.
enum class RowOrder : std::uint8_t { kByExpert, kBySource };

// By source with run.determinism: cross_layout.
RowOrder row_order(const config::Experiment& experiment);

class Exchange {
 public:
  // `experts` E are dealt to the ranks of grid.expert_parallel() as grid.experts_of says. The grid must
  // outlive the exchange.
  Exchange(std::int64_t experts, const ProcessGrid& grid, RowOrder order = RowOrder::kByExpert);

  // Tells every rank of the group how many rows of each of its experts come from this one. Collective; must
  // precede the transports of a micro-batch, which keep its counts until the next call. Throws Error if the
  // plan is not of E experts or its offsets do not add up, and, before any row travels, if a rank of the
  // group is in another step, micro-step, layer or pass, or counts other experts: the message names both
  // sides.
  void agree(Context& ctx, const DispatchPlan& plan);

  // The same where every rank sends every expert exactly `rows_per_expert` rows, the same number on all
  // ranks: shapes are known, and nothing is communicated.
  void agree_on_equal_rows(const DispatchPlan& plan, std::int64_t rows_per_expert);

  // Collective. [R, D] of any type -> [R', D] in ctx.arena; in a group of one, where both sides are the
  // same, `rows` itself.
  TensorView dispatch(Context& ctx, TensorView rows);
  // Collective. [R', D] -> [R, D] in ctx.arena; in a group of one `rows` itself.
  TensorView combine(Context& ctx, TensorView rows);

  // Adds what a count of each expert [E] says of each rank of the group to `by_rank` [P].
  void add_by_rank(std::span<const std::int64_t> by_expert, std::span<std::int64_t> by_rank) const;

  // Where runs of rows end on the expert side. By expert, [local experts + 1]: those of local expert i are
  // [offsets[i], offsets[i + 1]). By source, [P * local experts + 1]: those of source s for local expert i
  // are [offsets[j], offsets[j + 1]), j = s * local experts + i.
  std::span<const std::int64_t> received_offsets() const { return received_offsets_; }
  std::int64_t ranks() const { return static_cast<std::int64_t>(sent_rows_by_rank_.size()); }  // P
  std::int64_t sent_rows() const { return sent_rows_; }                                        // R
  std::int64_t received_rows() const { return received_offsets_.back(); }                      // R'

 private:
  // One run of rows: of local expert i from one source.
  struct Block {
    std::int64_t first_on_wire = 0;      // where it lies in the order of the wire: by source, then expert
    std::int64_t first_for_experts = 0;  // where it lies on the expert side
    std::int64_t rows = 0;
  };
  // Checks the plan and counts what it sends.
  void count_sent_rows(const DispatchPlan& plan);
  // Exchanges sent_rows_by_expert_ for received_rows_by_block_, each rank's counts behind the words that say
  // where it is.
  void exchange_counts(const Context& ctx);
  void lay_out_blocks();
  // An all-to-all of the expert-parallel group. Its time counts as TimePart::kExchange.
  void wait_for_all(const Context& ctx, const char* what, ConstBufferView send,
                    std::span<const std::int64_t> send_counts, BufferView recv,
                    std::span<const std::int64_t> recv_counts);
  // Moves rows over the wire; counts are rows a rank.
  void transport(Context& ctx, ConstTensorView send, std::span<const std::int64_t> send_rows, TensorView recv,
                 std::span<const std::int64_t> recv_rows);
  // Copies every block of `from`, which lies in one of the two orders of Block, to its place in the other.
  void reorder(ConstTensorView from, std::int64_t Block::*first_in_from, TensorView to,
               std::int64_t Block::*first_in_to) const;

  const ProcessGrid* grid_;
  std::int64_t experts_;
  std::int64_t local_experts_;
  RowOrder order_;

  std::int64_t sent_rows_ = 0;
  std::vector<std::int64_t> sent_rows_by_rank_;      // [P]
  std::vector<std::int64_t> received_rows_by_rank_;  // [P]
  std::vector<std::int64_t> received_offsets_;       // see received_offsets()
  std::vector<Block> blocks_;                        // [P * local experts], by source, then expert
  bool ordered_on_arrival_ = true;                   // the two orders of blocks_ are the same

  std::vector<std::int64_t> sent_rows_by_expert_;     // [E]
  std::vector<std::int64_t> received_rows_by_block_;  // [P * local experts]
  std::vector<std::int64_t> announced_;               // a rank's words and counts after the other's
  std::vector<std::int64_t> announced_words_;         // [P]
  std::vector<std::int64_t> heard_;                   // the same from each rank
  std::vector<std::int64_t> heard_words_;             // [P], all the same
  std::vector<std::int64_t> send_counts_;             // [P], elements
  std::vector<std::int64_t> recv_counts_;             // [P], elements
};

}  // namespace conclave
