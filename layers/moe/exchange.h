// The transport between tokens and experts: rows travel to the rank that holds their expert, and back, by
// all-to-all over the expert-parallel group.
//
//   token side    rows [R, D] of this rank's tokens, in the order of its DispatchPlan (global expert, token)
//   wire          rows [R', D] that this rank's experts receive, as they arrive: by source rank, then local
//                 expert, then in the order of the source
//   expert side   the same rows by local expert, then by source rank; or as on the wire, where that is asked
//                 for
//
// dispatch() carries token side to expert side, combine() carries back. They are permutations of rows over
// the group, each the inverse and so the transpose of the other: the gradient of one travels by the other.
//
// Rows may travel in several chunks: chunk c is the rows of the c-th contiguous part of every rank's experts.
// Wire and expert side hold one chunk after the other, each in the order above; on the token side the rows of
// a chunk for one rank lie together. An expert has all of its rows in one chunk, so that it computes the
// same, bit for bit, whatever the number of chunks.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "configs/run.pb.h"
#include "layers/context.h"
#include "layers/moe/dispatched_rows.h"

namespace conclave {

// What the rows on the expert side are ordered by first. By expert: each expert sees all of its rows at once.
// By source: the rows of each source stay together, and an expert can compute exactly what it would have
// computed on the source's own rank.
enum class RowOrder : std::uint8_t { kByExpert, kBySource };

// By source with run.determinism: cross_layout.
RowOrder row_order(const config::Experiment& experiment);

class Exchange {
 public:
  // `experts` E are dealt to the ranks of grid.expert_parallel() as grid.experts_of says, and cut into
  // `chunks`: at most as many as the experts of any rank, and one in a group of one, where nothing travels.
  // The grid must outlive the exchange.
  Exchange(std::int64_t experts, const ProcessGrid& grid, RowOrder order = RowOrder::kByExpert,
           std::int64_t chunks = 1);

  // The watchdog reports waits as those of ctx.layer from now on.
  void enter(const Context& ctx) { grid_->expert_parallel().watchdog().set_layer(ctx.layer); }

  // Tells every rank of the group how many rows of each of its experts come from this one. Collective; must
  // precede the transports of a micro-batch, which keep its counts until the next call. On a GPU the host
  // waits for the counts, but not in a group of one, where they may stay there. Throws Error if the rows are
  // not of E experts or their offsets do not add up, and, before any row travels, if a rank of the group is
  // in another step, micro-step, layer or pass, or counts other experts: the message names both sides.
  void agree(Context& ctx, const DispatchedRows& rows);

  // The same where every rank sends every expert exactly `rows_per_expert` rows, the same number on all
  // ranks: shapes are known, and nothing is communicated.
  void agree_on_equal_rows(const DispatchedRows& rows, std::int64_t rows_per_expert);

  // Collective, all chunks. [R, D] of any type -> [R', D] in ctx.arena; in a group of one, where both sides
  // are the same, `rows` itself.
  TensorView dispatch(Context& ctx, TensorView rows);
  // Collective, all chunks. [R', D] -> [R, D] in ctx.arena; in a group of one `rows` itself.
  TensorView combine(Context& ctx, TensorView rows);

  // One chunk, for those who compute meanwhile (round_trip.h); R'_c rows of it come here. Every rank starts
  // and finishes the same transports in the same order. A transport that is under way owns the chunk's rows
  // on both of its ends.
  void start_dispatch(const Context& ctx, std::int64_t chunk, ConstTensorView rows,  // [R, D]
                      TensorView wire);                                              // [R'_c, D]
  void start_combine(const Context& ctx, std::int64_t chunk, ConstTensorView wire,   // [R'_c, D]
                     TensorView rows);                                               // [R, D]
  void finish_dispatch(const Context& ctx, std::int64_t chunk);
  void finish_combine(const Context& ctx, std::int64_t chunk);
  // While an exception ends the job: lets go of all transports without waiting for them.
  void abandon();
  // Whether the rows of a chunk lie on the wire as they do on the expert side.
  bool arrives_in_order(std::int64_t chunk) const;
  // [R'_c, D] each.
  void order_for_experts(Context& ctx, std::int64_t chunk, ConstTensorView wire, TensorView rows) const;
  void order_for_wire(Context& ctx, std::int64_t chunk, ConstTensorView rows, TensorView wire) const;

  // Adds what a count of each expert [E] says of each rank of the group to `by_rank` [P].
  void add_by_rank(std::span<const std::int64_t> by_expert, std::span<std::int64_t> by_rank) const;

  std::int64_t chunks() const { return static_cast<std::int64_t>(chunks_.size()); }
  // Where the rows of a chunk lie on the expert side.
  Range received_rows(std::int64_t chunk) const { return chunk_at(chunk).rows; }
  // Where runs of rows end within a chunk, counted from its first. By expert, [local experts + 1]: those of
  // local expert i are [offsets[i], offsets[i + 1]). By source, [P * local experts + 1]: those of source s
  // for local expert i are [offsets[j], offsets[j + 1]), j = s * local experts + i. Experts of other chunks
  // have no rows. int64, valid until the next agreement: on the host, or in a group of one where agree()
  // found them.
  ConstTensorView received_offsets(std::int64_t chunk) const {
    return offsets_on_gpu_.raw() != nullptr ? offsets_on_gpu_ : ConstTensorView(chunk_at(chunk).offsets);
  }
  std::int64_t ranks() const { return static_cast<std::int64_t>(heard_words_.size()); }  // P
  std::int64_t sent_rows() const { return sent_rows_; }                                  // R
  std::int64_t received_rows() const { return chunks_.back().rows.end; }                 // R'

 private:
  // One run of rows: of local expert i from one source. Places are counted from the first of its chunk.
  struct Block {
    std::int64_t first_on_wire = 0;
    std::int64_t first_for_experts = 0;
    std::int64_t rows = 0;
  };
  // What an all-to-all exchanges with each rank, in rows.
  struct Runs {
    std::vector<std::int64_t> rows;   // [P]
    std::vector<std::int64_t> first;  // [P]
  };
  struct Chunk {
    Range experts;                      // of the local ones
    Runs sent;                          // on the token side
    Runs received;                      // on the wire, counted from the chunk's first row
    Range rows;                         // on the expert side
    std::vector<std::int64_t> offsets;  // see received_offsets()
    bool in_order = true;               // on arrival
    Work dispatch;                      // under way
    Work combine;                       // under way
  };

  const Chunk& chunk_at(std::int64_t chunk) const { return chunks_[static_cast<std::size_t>(chunk)]; }
  // A group of one whose counts are on a GPU.
  bool stays_on_gpu(const DispatchedRows& rows) const {
    return ranks() == 1 && rows.expert_offsets.device().kind == DeviceKind::kCuda;
  }
  // Brings the offsets of the rows to the host, and checks them.
  void note_sent_rows(Context& ctx, const DispatchedRows& rows);
  // A group of one, which needs to know how many rows there may be and no more.
  void keep_on_gpu(const DispatchedRows& rows);
  // Exchanges the counts of the rows for received_rows_by_block_, each rank's counts behind the words that
  // say where it is.
  void exchange_counts(const Context& ctx);
  void lay_out();
  // chunk.experts, sent and received.
  void lay_out_wire(std::int64_t index, Chunk& chunk);
  // chunk.rows, offsets and in_order.
  void lay_out_for_experts(std::int64_t first_row, Chunk& chunk);
  static void finish(const Context& ctx, Work& transport);
  Chunk& chunk_at(std::int64_t chunk) { return chunks_[static_cast<std::size_t>(chunk)]; }
  Work start(const Context& ctx, ConstTensorView send, const Runs& sent, TensorView recv,
             const Runs& received);
  // Copies every block of a chunk, which lies in one of the two orders of Block in `from`, to its place in
  // the other.
  void reorder(Context& ctx, const Chunk& chunk, ConstTensorView from, std::int64_t Block::*first_in_from,
               TensorView to, std::int64_t Block::*first_in_to) const;

  const ProcessGrid* grid_;
  std::int64_t experts_;
  std::int64_t local_experts_;
  RowOrder order_;

  std::vector<std::int64_t> sent_offsets_;  // [E + 1] of the rows that are sent
  std::int64_t sent_rows_ = 0;
  ConstTensorView offsets_on_gpu_;  // [E + 1], in place of the above; empty: those are valid
  std::vector<Chunk> chunks_;
  std::vector<Block> blocks_;  // [P * local experts], by source, then expert

  std::vector<std::int64_t> received_rows_by_block_;  // [P * local experts]
  std::vector<std::int64_t> announced_;               // a rank's words and counts after the other's
  std::vector<std::int64_t> announced_words_;         // [P]
  std::vector<std::int64_t> heard_;                   // the same from each rank
  std::vector<std::int64_t> heard_words_;             // [P], all the same
  Runs send_elements_;                                // of the transport that is being started
  Runs recv_elements_;
};

}  // namespace conclave
