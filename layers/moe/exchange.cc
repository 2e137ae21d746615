#include "layers/moe/exchange.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <numeric>
#include <string>

namespace conclave {
namespace {

// What ranks that exchange rows must agree about: the words that precede their counts.
struct Place {
  static constexpr std::int64_t kWords = 5;
  using Words = std::array<std::int64_t, kWords>;

  static Words of(const Context& ctx, std::int64_t experts) {
    return {ctx.batch.step, ctx.batch.micro_step, ctx.layer, ctx.training ? 1 : 0, experts};
  }
  static std::string text(const Words& words) {
    return fmt::format("step {}, micro-step {}, layer {}, {}, {} experts", words[0] + 1, words[1], words[2],
                       words[3] != 0 ? "training" : "evaluation", words[4]);
  }
};

}  // namespace

RowOrder row_order(const config::Experiment& experiment) {
  return experiment.run().determinism() == config::Run::cross_layout ? RowOrder::kBySource
                                                                     : RowOrder::kByExpert;
}

Exchange::Exchange(std::int64_t experts, const ProcessGrid& grid, RowOrder order)
    : grid_(&grid), experts_(experts), local_experts_(grid.local_experts(experts).size()), order_(order) {
  const int ranks = grid.expert_parallel().size();
  const auto count = static_cast<std::size_t>(ranks);
  sent_rows_by_rank_.resize(count);
  received_rows_by_rank_.resize(count);
  blocks_.resize(count * static_cast<std::size_t>(local_experts_));
  sent_rows_by_expert_.resize(static_cast<std::size_t>(experts));
  received_rows_by_block_.resize(blocks_.size());
  announced_.resize(static_cast<std::size_t>(experts + ranks * Place::kWords));
  heard_.resize(blocks_.size() + count * Place::kWords);
  heard_words_.assign(count, local_experts_ + Place::kWords);
  send_counts_.resize(count);
  recv_counts_.resize(count);
  for (int rank = 0; rank < ranks; ++rank) {
    announced_words_.push_back(grid.experts_of(experts, rank).size() + Place::kWords);
  }
}

void Exchange::count_sent_rows(const DispatchPlan& plan) {
  const std::vector<std::int64_t>& offsets = plan.expert_offsets;
  CONCLAVE_CHECK_EQ(static_cast<std::int64_t>(offsets.size()), experts_ + 1,
                    "expert offsets of a dispatch plan");
  CONCLAVE_CHECK_EQ(offsets.front(), 0, "first expert offset of a dispatch plan");
  CONCLAVE_CHECK_EQ(offsets.back(), plan.rows(), "last expert offset of a dispatch plan, against its rows");
  sent_rows_ = plan.rows();
  for (std::size_t e = 0; e < sent_rows_by_expert_.size(); ++e) {
    CONCLAVE_CHECK(offsets[e] <= offsets[e + 1], "offsets of a dispatch plan fall from {} to {} at expert {}",
                   offsets[e], offsets[e + 1], e);
    sent_rows_by_expert_[e] = offsets[e + 1] - offsets[e];
  }
}

void Exchange::wait_for_all(const Context& ctx, const char* what, ConstBufferView send,
                            std::span<const std::int64_t> send_counts, BufferView recv,
                            std::span<const std::int64_t> recv_counts) {
  const Span span(ctx.clock, what, TimePart::kExchange, ComparedCall::kExchange);
  Communicator& group = grid_->expert_parallel();
  group.watchdog().set_layer(ctx.layer);
  group.all_to_all_v(send, send_counts, recv, recv_counts).wait();
}

void Exchange::agree(Context& ctx, const DispatchPlan& plan) {
  count_sent_rows(plan);
  exchange_counts(ctx);
  lay_out_blocks();
}

void Exchange::exchange_counts(const Context& ctx) {
  Communicator& group = grid_->expert_parallel();
  const Place::Words here = Place::of(ctx, experts_);
  auto word = announced_.begin();
  for (int rank = 0; rank < group.size(); ++rank) {
    const Range owned = grid_->experts_of(experts_, rank);
    word = std::ranges::copy(here, word).out;
    word = std::copy_n(sent_rows_by_expert_.begin() + owned.begin, owned.size(), word);
  }
  wait_for_all(ctx, "exchange counts", buffer_view(std::span<const std::int64_t>(announced_)),
               announced_words_, buffer_view(std::span(heard_)), heard_words_);
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
}

void Exchange::agree_on_equal_rows(const DispatchPlan& plan, std::int64_t rows_per_expert) {
  count_sent_rows(plan);
  for (const std::int64_t rows : sent_rows_by_expert_)
    CONCLAVE_CHECK_EQ(rows, rows_per_expert, "rows of an expert that is filled up to its capacity");
  std::ranges::fill(received_rows_by_block_, rows_per_expert);
  lay_out_blocks();
}

void Exchange::lay_out_blocks() {
  const std::size_t ranks = sent_rows_by_rank_.size();
  const auto locals = static_cast<std::size_t>(local_experts_);

  std::int64_t wire_row = 0;
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    const Range owned = grid_->experts_of(experts_, static_cast<int>(rank));
    sent_rows_by_rank_[rank] = std::reduce(sent_rows_by_expert_.begin() + owned.begin,
                                           sent_rows_by_expert_.begin() + owned.end, std::int64_t{0});
    const std::int64_t first_row = wire_row;
    for (std::size_t expert = 0; expert < locals; ++expert) {
      const std::int64_t rows = received_rows_by_block_[rank * locals + expert];
      CONCLAVE_CHECK(rows >= 0, "expert-parallel rank {} announced {} rows for local expert {}", rank, rows,
                     expert);
      blocks_[rank * locals + expert] = {.first_on_wire = wire_row, .first_for_experts = 0, .rows = rows};
      wire_row += rows;
    }
    received_rows_by_rank_[rank] = wire_row - first_row;
  }

  std::int64_t expert_row = 0;
  ordered_on_arrival_ = true;
  received_offsets_.assign(1, 0);
  const auto place = [&](Block& block) {
    block.first_for_experts = expert_row;
    expert_row += block.rows;
    if (block.rows > 0 && block.first_on_wire != block.first_for_experts) ordered_on_arrival_ = false;
  };
  if (order_ == RowOrder::kBySource) {
    for (Block& block : blocks_) {
      place(block);
      received_offsets_.push_back(expert_row);
    }
  } else {
    for (std::size_t expert = 0; expert < locals; ++expert) {
      for (std::size_t rank = 0; rank < ranks; ++rank) place(blocks_[rank * locals + expert]);
      received_offsets_.push_back(expert_row);
    }
  }

  const std::int64_t sent =
      std::reduce(sent_rows_by_rank_.begin(), sent_rows_by_rank_.end(), std::int64_t{0});
  CONCLAVE_CHECK_EQ(sent, sent_rows_, "rows sent to all ranks, against the rows of the plan");
  CONCLAVE_CHECK_EQ(expert_row, wire_row, "rows received by the local experts, against those from all ranks");
}

void Exchange::transport(Context& ctx, ConstTensorView send, std::span<const std::int64_t> send_rows,
                         TensorView recv, std::span<const std::int64_t> recv_rows) {
  const std::int64_t width = send.shape().row_elements();
  for (std::size_t rank = 0; rank < send_counts_.size(); ++rank) {
    send_counts_[rank] = send_rows[rank] * width;
    recv_counts_[rank] = recv_rows[rank] * width;
  }
  wait_for_all(ctx, "exchange", send, send_counts_, recv, recv_counts_);
}

void Exchange::reorder(ConstTensorView from, std::int64_t Block::*first_in_from, TensorView to,
                       std::int64_t Block::*first_in_to) const {
  const auto row_bytes = to.shape().row_elements() * static_cast<std::int64_t>(size_of(to.dtype()));
  const auto* source = static_cast<const std::byte*>(from.raw());
  auto* target = static_cast<std::byte*>(to.raw());
#pragma omp parallel for schedule(dynamic)
  for (const Block& block : blocks_) {
    std::copy_n(source + block.*first_in_from * row_bytes, block.rows * row_bytes,
                target + block.*first_in_to * row_bytes);
  }
}

void Exchange::add_by_rank(std::span<const std::int64_t> by_expert, std::span<std::int64_t> by_rank) const {
  for (std::size_t rank = 0; rank < by_rank.size(); ++rank) {
    const Range owned = grid_->experts_of(experts_, static_cast<int>(rank));
    by_rank[rank] +=
        std::reduce(by_expert.begin() + owned.begin, by_expert.begin() + owned.end, std::int64_t{0});
  }
}

TensorView Exchange::dispatch(Context& ctx, TensorView rows) {
  CONCLAVE_CHECK_EQ(rows.extent(0), sent_rows_, "rows to dispatch, against the plan");
  if (grid_->expert_parallel().size() == 1) return rows;

  const TensorView received = ctx.arena->allocate(rows.shape().with_rows(received_rows()), rows.dtype());
  if (ordered_on_arrival_) {
    transport(ctx, rows, sent_rows_by_rank_, received, received_rows_by_rank_);
    return received;
  }
  const Arena::Mark scratch(*ctx.arena);
  const TensorView wire = ctx.arena->allocate(received.shape(), rows.dtype());
  transport(ctx, rows, sent_rows_by_rank_, wire, received_rows_by_rank_);
  reorder(wire, &Block::first_on_wire, received, &Block::first_for_experts);
  return received;
}

TensorView Exchange::combine(Context& ctx, TensorView rows) {
  CONCLAVE_CHECK_EQ(rows.extent(0), received_rows(), "rows to return, against those that were received");
  if (grid_->expert_parallel().size() == 1) return rows;

  const TensorView returned = ctx.arena->allocate(rows.shape().with_rows(sent_rows_), rows.dtype());
  if (ordered_on_arrival_) {
    transport(ctx, rows, received_rows_by_rank_, returned, sent_rows_by_rank_);
    return returned;
  }
  const Arena::Mark scratch(*ctx.arena);
  const TensorView wire = ctx.arena->allocate(rows.shape(), rows.dtype());
  reorder(rows, &Block::first_for_experts, wire, &Block::first_on_wire);
  transport(ctx, wire, received_rows_by_rank_, returned, sent_rows_by_rank_);
  return returned;
}

}  // namespace conclave
