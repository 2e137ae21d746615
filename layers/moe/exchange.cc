#include "layers/moe/exchange.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <numeric>
#include <string>
#include <utility>

#include "layers/cuda/arguments.h"

namespace conclave {
namespace {

// What ranks that exchange rows must agree about: the words that precede their counts.
struct Place {
  static constexpr std::int64_t kWords = 6;
  using Words = std::array<std::int64_t, kWords>;

  static Words of(const Context& ctx, std::int64_t experts, std::int64_t chunks) {
    return {ctx.batch.step, ctx.batch.micro_step, ctx.layer, ctx.training ? 1 : 0, experts, chunks};
  }
  static std::string text(const Words& words) {
    return fmt::format("step {}, micro-step {}, layer {}, {}, {} experts in {} chunk{}", words[0] + 1,
                       words[1], words[2], words[3] != 0 ? "training" : "evaluation", words[4], words[5],
                       words[5] == 1 ? "" : "s");
  }
};

}  // namespace

RowOrder row_order(const config::Experiment& experiment) {
  return experiment.run().determinism() == config::Run::cross_layout ? RowOrder::kBySource
                                                                     : RowOrder::kByExpert;
}

Exchange::Exchange(std::int64_t experts, const ProcessGrid& grid, RowOrder order, std::int64_t chunks)
    : grid_(&grid), experts_(experts), local_experts_(grid.local_experts(experts).size()), order_(order) {
  const int ranks = grid.expert_parallel().size();
  const auto count = static_cast<std::size_t>(ranks);
  const std::int64_t most_experts = grid.experts_of(experts, 0).size();  // no rank has more than the first
  if (ranks == 1) chunks = 1;
  chunks_.resize(static_cast<std::size_t>(std::max<std::int64_t>(std::min(chunks, most_experts), 1)));
  for (Chunk& chunk : chunks_) {
    for (Runs* runs : {&chunk.sent, &chunk.received}) {
      runs->rows.resize(count);
      runs->first.resize(count);
    }
  }
  sent_offsets_.resize(static_cast<std::size_t>(experts) + 1);
  blocks_.resize(count * static_cast<std::size_t>(local_experts_));
  received_rows_by_block_.resize(blocks_.size());
  announced_.resize(static_cast<std::size_t>(experts + ranks * Place::kWords));
  heard_.resize(blocks_.size() + count * Place::kWords);
  heard_words_.assign(count, local_experts_ + Place::kWords);
  for (Runs* runs : {&send_elements_, &recv_elements_}) {
    runs->rows.resize(count);
    runs->first.resize(count);
  }
  for (int rank = 0; rank < ranks; ++rank) {
    announced_words_.push_back(grid.experts_of(experts, rank).size() + Place::kWords);
  }
}

void Exchange::note_sent_rows(Context& ctx, const DispatchedRows& rows) {
  const bool are_on_gpu = rows.expert_offsets.device().kind == DeviceKind::kCuda;
  std::vector<std::int64_t>& offsets = sent_offsets_;
  CONCLAVE_CHECK_EQ(rows.expert_offsets.elements(), experts_ + 1, "expert offsets of a dispatch plan");
  if (are_on_gpu) {
    ctx.gpu->staging().download(offsets.data(), rows.expert_offsets.raw(),
                                offsets.size() * sizeof(std::int64_t));
  } else {
    std::ranges::copy(rows.expert_offsets.values<std::int64_t>(), offsets.begin());
  }
  CONCLAVE_CHECK_EQ(offsets.front(), 0, "first expert offset of a dispatch plan");
  if (!are_on_gpu) {  // where there may be fewer
    CONCLAVE_CHECK_EQ(offsets.back(), rows.rows(), "last expert offset of a dispatch plan, against its rows");
  }
  for (std::size_t e = 0; e + 1 < offsets.size(); ++e) {
    CONCLAVE_CHECK(offsets[e] <= offsets[e + 1], "offsets of a dispatch plan fall from {} to {} at expert {}",
                   offsets[e], offsets[e + 1], e);
  }
  sent_rows_ = rows.rows();
  offsets_on_gpu_ = {};
}

void Exchange::keep_on_gpu(const DispatchedRows& rows) {
  CONCLAVE_CHECK_EQ(rows.expert_offsets.elements(), experts_ + 1, "expert offsets of a dispatch plan");
  offsets_on_gpu_ = rows.expert_offsets;
  sent_rows_ = rows.rows();
  chunks_.front().rows = {0, sent_rows_};
}

void Exchange::agree(Context& ctx, const DispatchedRows& rows) {
  if (stays_on_gpu(rows)) return keep_on_gpu(rows);
  note_sent_rows(ctx, rows);
  exchange_counts(ctx);
  lay_out();
}

void Exchange::exchange_counts(const Context& ctx) {
  Communicator& group = grid_->expert_parallel();
  const Place::Words here = Place::of(ctx, experts_, chunks());
  auto word = announced_.begin();
  for (int rank = 0; rank < group.size(); ++rank) {
    const Range owned = grid_->experts_of(experts_, rank);
    word = std::ranges::copy(here, word).out;
    for (std::int64_t expert = owned.begin; expert < owned.end; ++expert) {
      const auto e = static_cast<std::size_t>(expert);
      *word++ = sent_offsets_[e + 1] - sent_offsets_[e];
    }
  }
  {
    const Span span(ctx.clock, "exchange counts", TimePart::kExchange, ComparedCall::kExchange);
    group
        .all_to_all_v(buffer_view(std::span<const std::int64_t>(announced_)), announced_words_,
                      buffer_view(std::span(heard_)), heard_words_)
        .wait();
  }
  auto heard = heard_.cbegin();
  auto rows = received_rows_by_block_.begin();
  for (int rank = 0; rank < group.size(); ++rank) {
    Place::Words there;
    std::copy_n(heard, Place::kWords, there.begin());
    CONCLAVE_CHECK(
        there == here,
        "the ranks of group \"{}\" are not in the same place: rank {} exchanges tokens in {}; rank {} "
        "in {}",
        group.name(), group.rank(), Place::text(here), rank, Place::text(there));
    rows = std::copy_n(heard + Place::kWords, local_experts_, rows);
    heard += Place::kWords + local_experts_;
  }
  for (const std::int64_t announced : received_rows_by_block_)
    CONCLAVE_CHECK(announced >= 0, "a rank of group \"{}\" announced {} rows", group.name(), announced);
}

void Exchange::agree_on_equal_rows(const DispatchedRows& rows, std::int64_t rows_per_expert) {
  CONCLAVE_CHECK_EQ(rows.rows(), experts_ * rows_per_expert, "rows of experts filled up to their capacity");
  if (stays_on_gpu(rows)) return keep_on_gpu(rows);
  for (std::int64_t e = 0; e <= experts_; ++e)
    sent_offsets_[static_cast<std::size_t>(e)] = e * rows_per_expert;
  sent_rows_ = sent_offsets_.back();
  offsets_on_gpu_ = {};
  std::ranges::fill(received_rows_by_block_, rows_per_expert);
  lay_out();
}

void Exchange::lay_out() {
  std::int64_t row = 0;
  for (std::int64_t index = 0; index < chunks(); ++index) {
    Chunk& chunk = chunks_[static_cast<std::size_t>(index)];
    lay_out_wire(index, chunk);
    lay_out_for_experts(row, chunk);
    row = chunk.rows.end;
  }
}

void Exchange::lay_out_wire(std::int64_t index, Chunk& chunk) {
  chunk.experts = partition(local_experts_, chunks(), index);
  std::int64_t wire_row = 0;
  for (std::size_t rank = 0; rank < chunk.sent.rows.size(); ++rank) {
    const Range owned = grid_->experts_of(experts_, static_cast<int>(rank));
    const Range part = partition(owned.size(), chunks(), index);
    chunk.sent.first[rank] = sent_offsets_[static_cast<std::size_t>(owned.begin + part.begin)];
    chunk.sent.rows[rank] =
        sent_offsets_[static_cast<std::size_t>(owned.begin + part.end)] - chunk.sent.first[rank];

    chunk.received.first[rank] = wire_row;
    for (std::int64_t expert = chunk.experts.begin; expert < chunk.experts.end; ++expert) {
      const auto at = static_cast<std::size_t>(static_cast<std::int64_t>(rank) * local_experts_ + expert);
      blocks_[at] = {.first_on_wire = wire_row, .first_for_experts = 0, .rows = received_rows_by_block_[at]};
      wire_row += blocks_[at].rows;
    }
    chunk.received.rows[rank] = wire_row - chunk.received.first[rank];
  }
}

void Exchange::lay_out_for_experts(std::int64_t first_row, Chunk& chunk) {
  std::int64_t row = 0;
  chunk.in_order = true;
  chunk.offsets.assign(1, 0);
  const auto place = [&](std::int64_t rank, std::int64_t expert) {
    if (!chunk.experts.contains(expert)) return;
    Block& block = blocks_[static_cast<std::size_t>(rank * local_experts_ + expert)];
    block.first_for_experts = row;
    row += block.rows;
    if (block.rows > 0 && block.first_on_wire != block.first_for_experts) chunk.in_order = false;
  };
  if (order_ == RowOrder::kBySource) {
    for (std::int64_t rank = 0; rank < ranks(); ++rank) {
      for (std::int64_t expert = 0; expert < local_experts_; ++expert) {
        place(rank, expert);
        chunk.offsets.push_back(row);
      }
    }
  } else {
    for (std::int64_t expert = 0; expert < local_experts_; ++expert) {
      for (std::int64_t rank = 0; rank < ranks(); ++rank) place(rank, expert);
      chunk.offsets.push_back(row);
    }
  }
  chunk.rows = {first_row, first_row + row};
}

Work Exchange::start(const Context& ctx, ConstTensorView send, const Runs& sent, TensorView recv,
                     const Runs& received) {
  const Span span(ctx.clock, "start exchange", TimePart::kExchange);
  const std::int64_t width = send.shape().row_elements();
  const auto in_elements = [&](const Runs& runs, Runs& elements) -> Blocks {
    for (std::size_t rank = 0; rank < runs.rows.size(); ++rank) {
      elements.rows[rank] = runs.rows[rank] * width;
      elements.first[rank] = runs.first[rank] * width;
    }
    return {elements.rows, elements.first};
  };
  Communicator& group = grid_->expert_parallel();
  return group.all_to_all_v(send, in_elements(sent, send_elements_), recv,
                            in_elements(received, recv_elements_));
}

void Exchange::start_dispatch(const Context& ctx, std::int64_t chunk, ConstTensorView rows, TensorView wire) {
  Chunk& own = chunk_at(chunk);
  own.dispatch = start(ctx, rows, own.sent, wire, own.received);
}

void Exchange::start_combine(const Context& ctx, std::int64_t chunk, ConstTensorView wire, TensorView rows) {
  Chunk& own = chunk_at(chunk);
  own.combine = start(ctx, wire, own.received, rows, own.sent);
}

void Exchange::finish_dispatch(const Context& ctx, std::int64_t chunk) {
  finish(ctx, chunk_at(chunk).dispatch);
}

void Exchange::finish_combine(const Context& ctx, std::int64_t chunk) {
  finish(ctx, chunk_at(chunk).combine);
}

void Exchange::abandon() {
  for (Chunk& chunk : chunks_) {
    const Work dispatch = std::move(chunk.dispatch);
    const Work combine = std::move(chunk.combine);
  }
}

void Exchange::finish(const Context& ctx, Work& transport) {
  const Span span(ctx.clock, "exchange", TimePart::kExchange, ComparedCall::kExchange);
  transport.wait();
}

bool Exchange::arrives_in_order(std::int64_t chunk) const { return chunk_at(chunk).in_order; }

void Exchange::order_for_experts(Context& ctx, std::int64_t chunk, ConstTensorView wire,
                                 TensorView rows) const {
  reorder(ctx, chunk_at(chunk), wire, &Block::first_on_wire, rows, &Block::first_for_experts);
}

void Exchange::order_for_wire(Context& ctx, std::int64_t chunk, ConstTensorView rows, TensorView wire) const {
  reorder(ctx, chunk_at(chunk), rows, &Block::first_for_experts, wire, &Block::first_on_wire);
}

void Exchange::reorder(Context& ctx, const Chunk& chunk, ConstTensorView from,
                       std::int64_t Block::*first_in_from, TensorView to,
                       std::int64_t Block::*first_in_to) const {
  const auto row_bytes = to.shape().row_elements() * static_cast<std::int64_t>(size_of(to.dtype()));
  const auto* source = static_cast<const std::byte*>(from.raw());
  auto* target = static_cast<std::byte*>(to.raw());
  if (ctx.on_gpu()) {
    std::vector<cuda::RowRun> runs;
    std::int64_t most_rows = 0;
    for (std::int64_t rank = 0; rank < ranks(); ++rank) {
      for (std::int64_t expert = chunk.experts.begin; expert < chunk.experts.end; ++expert) {
        const Block& block = blocks_[static_cast<std::size_t>(rank * local_experts_ + expert)];
        if (block.rows == 0) continue;
        runs.push_back({block.*first_in_from, block.*first_in_to, block.rows});
        most_rows = std::max(most_rows, block.rows);
      }
    }
    const Arena::Mark scratch(*ctx.arena);
    cuda::move_rows(cuda::stream_of(ctx), source, target, cuda::upload_records<cuda::RowRun>(ctx, runs),
                    std::ssize(runs), most_rows, row_bytes);
    return;
  }
#pragma omp parallel for collapse(2) schedule(dynamic)
  for (std::int64_t rank = 0; rank < ranks(); ++rank) {
    for (std::int64_t expert = chunk.experts.begin; expert < chunk.experts.end; ++expert) {
      const Block& block = blocks_[static_cast<std::size_t>(rank * local_experts_ + expert)];
      std::copy_n(source + block.*first_in_from * row_bytes, block.rows * row_bytes,
                  target + block.*first_in_to * row_bytes);
    }
  }
}

TensorView Exchange::dispatch(Context& ctx, TensorView rows) {
  CONCLAVE_CHECK_EQ(rows.extent(0), sent_rows(), "rows to dispatch, against the plan");
  if (ranks() == 1) return rows;

  const TensorView received = ctx.arena->allocate(rows.shape().with_rows(received_rows()), rows.dtype());
  for (std::int64_t chunk = 0; chunk < chunks(); ++chunk) {
    const Range own = received_rows(chunk);
    const TensorView ordered = received.rows(own.begin, own.end);
    const Arena::Mark scratch(*ctx.arena);
    const TensorView wire =
        arrives_in_order(chunk) ? ordered : ctx.arena->allocate(ordered.shape(), rows.dtype());
    start_dispatch(ctx, chunk, rows, wire);
    finish_dispatch(ctx, chunk);
    if (!arrives_in_order(chunk)) order_for_experts(ctx, chunk, wire, ordered);
  }
  return received;
}

TensorView Exchange::combine(Context& ctx, TensorView rows) {
  CONCLAVE_CHECK_EQ(rows.extent(0), received_rows(), "rows to return, against those that were received");
  if (ranks() == 1) return rows;

  const TensorView returned = ctx.arena->allocate(rows.shape().with_rows(sent_rows()), rows.dtype());
  for (std::int64_t chunk = 0; chunk < chunks(); ++chunk) {
    const Range own = received_rows(chunk);
    const TensorView ordered = rows.rows(own.begin, own.end);
    const Arena::Mark scratch(*ctx.arena);
    const TensorView wire =
        arrives_in_order(chunk) ? ordered : ctx.arena->allocate(ordered.shape(), rows.dtype());
    if (!arrives_in_order(chunk)) order_for_wire(ctx, chunk, ordered, wire);
    start_combine(ctx, chunk, wire, returned);
    finish_combine(ctx, chunk);
  }
  return returned;
}

void Exchange::add_by_rank(std::span<const std::int64_t> by_expert, std::span<std::int64_t> by_rank) const {
  for (std::size_t rank = 0; rank < by_rank.size(); ++rank) {
    const Range owned = grid_->experts_of(experts_, static_cast<int>(rank));
    by_rank[rank] +=
        std::reduce(by_expert.begin() + owned.begin, by_expert.begin() + owned.end, std::int64_t{0});
  }
}

}  // namespace conclave
