// ranks: 1 2 3 4
// Where every row goes: each value names its source, its expert and its place, so that a misplaced row shows.
#include "layers/moe/exchange.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "layers/moe/round_trip.h"
#include "tests/support/mpi_environment.h"

namespace conclave::test {
namespace {

constexpr std::int64_t kWidth = 3;

// Rows that `rank` of the world sends to `expert`: uneven, with zeros.
std::int64_t rows_for(int rank, std::int64_t expert) { return (3 * rank + 5 * expert + rank * expert) % 4; }
std::int64_t all_to_one(int, std::int64_t expert) { return expert == 1 ? 6 : 0; }
std::int64_t only_rank_zero(int rank, std::int64_t expert) { return rank == 0 ? 1 + expert % 2 : 0; }
std::int64_t nothing(int, std::int64_t) { return 0; }

using RowsFor = std::int64_t (*)(int rank, std::int64_t expert);

float row_value(int rank, std::int64_t expert, std::int64_t row, std::int64_t column) {
  return static_cast<float>(10000 * rank + 1000 * expert + 10 * row + column);
}

DispatchPlan make_plan(std::int64_t experts, RowsFor rows) {
  DispatchPlan plan;
  plan.experts = experts;
  plan.expert_offsets = {0};
  for (std::int64_t expert = 0; expert < experts; ++expert) {
    plan.expert_offsets.push_back(plan.expert_offsets.back() + rows(world().rank(), expert));
  }
  plan.choice_of_row.resize(static_cast<std::size_t>(plan.expert_offsets.back()));
  return plan;
}

void agree(Exchange& exchange, Context& ctx, const DispatchPlan& plan) { exchange.agree(ctx, rows_of(plan)); }

std::vector<float> floats_of(const TensorView& tensor) {
  const auto values = tensor.values<float>();
  return {values.begin(), values.end()};
}

// What the expert side of this rank must hold: chunk after chunk, by local expert, then source, then the
// order of the source; or by source, then local expert.
struct ExpertSide {
  std::vector<float> values;
  std::vector<std::vector<std::int64_t>> offsets;  // of each chunk
  std::vector<Range> rows;                         // of each chunk
};

ExpertSide expected_expert_side(const ProcessGrid& grid, std::int64_t experts, RowsFor rows, RowOrder order,
                                std::int64_t chunks) {
  const int sources = grid.expert_parallel().size();
  const int first_source = world().rank() - grid.expert_parallel().rank();
  const Range local = grid.local_experts(experts);
  ExpertSide side;
  const auto rows_so_far = [&] { return static_cast<std::int64_t>(side.values.size()) / kWidth; };
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
    const Range part = partition(local.size(), chunks, chunk);
    const std::int64_t first = rows_so_far();
    std::vector<std::int64_t> offsets = {0};
    const auto add_block = [&](int source, std::int64_t expert) {
      if (!part.contains(expert - local.begin)) return;
      for (std::int64_t row = 0; row < rows(first_source + source, expert); ++row) {
        for (std::int64_t d = 0; d < kWidth; ++d)
          side.values.push_back(row_value(first_source + source, expert, row, d));
      }
    };
    const auto end_run = [&] { offsets.push_back(rows_so_far() - first); };
    if (order == RowOrder::kByExpert) {
      for (std::int64_t expert = local.begin; expert < local.end; ++expert) {
        for (int source = 0; source < sources; ++source) add_block(source, expert);
        end_run();
      }
    } else {
      for (int source = 0; source < sources; ++source) {
        for (std::int64_t expert = local.begin; expert < local.end; ++expert) {
          add_block(source, expert);
          end_run();
        }
      }
    }
    side.offsets.push_back(std::move(offsets));
    side.rows.push_back({first, rows_so_far()});
  }
  return side;
}

void expect_round_trip(const ProcessGrid& grid, std::int64_t experts, RowsFor rows, RowOrder order,
                       std::int64_t chunks) {
  const int expert_parallel_size = grid.expert_parallel().size();
  SCOPED_TRACE(fmt::format("expert_parallel_size {} experts {} order {} chunks {}", expert_parallel_size,
                           experts, static_cast<int>(order), chunks));
  Arena arena;
  StepClock clock;
  Context ctx{.arena = &arena, .grid = &grid, .clock = &clock};
  Exchange exchange(experts, grid, order, chunks);
  const std::int64_t most_local = grid.experts_of(experts, 0).size();
  EXPECT_EQ(exchange.chunks(), expert_parallel_size == 1 ? 1 : std::min(chunks, most_local));
  const DispatchPlan plan = make_plan(experts, rows);
  exchange.agree(ctx, rows_of(plan));

  const TensorView sent = arena.allocate({plan.rows(), kWidth});
  std::vector<float> expected_back;
  for (std::int64_t expert = 0; expert < experts; ++expert) {
    for (std::int64_t row = 0; row < rows(world().rank(), expert); ++row) {
      for (std::int64_t d = 0; d < kWidth; ++d) {
        expected_back.push_back(row_value(world().rank(), expert, row, d));
      }
    }
  }
  std::ranges::copy(expected_back, sent.data<float>());
  const ExpertSide expected = expected_expert_side(grid, experts, rows, order, exchange.chunks());

  const TensorView received = exchange.dispatch(ctx, sent);
  EXPECT_EQ(floats_of(received), expected.values);
  for (std::int64_t chunk = 0; chunk < exchange.chunks(); ++chunk) {
    const ConstTensorView offsets_of_chunk = exchange.received_offsets(chunk);
    const auto offsets = offsets_of_chunk.values<std::int64_t>();
    EXPECT_EQ(std::vector<std::int64_t>(offsets.begin(), offsets.end()),
              expected.offsets[static_cast<std::size_t>(chunk)]);
    EXPECT_EQ(exchange.received_rows(chunk), expected.rows[static_cast<std::size_t>(chunk)]);
  }
  if (expert_parallel_size == 1) {
    EXPECT_EQ(received.raw(), sent.raw());
  }

  // Rows of another type travel the same way: here each row's first value, beyond 32 bits.
  const TensorView numbers = arena.allocate({plan.rows(), 1}, DType::kInt64);
  for (std::int64_t row = 0; row < plan.rows(); ++row) {
    numbers.data<std::int64_t>()[row] =
        std::int64_t{1} << 40 | static_cast<std::int64_t>(sent.data<float>()[row * kWidth]);
  }
  const TensorView received_numbers = exchange.dispatch(ctx, numbers);
  for (std::int64_t row = 0; row < received.extent(0); ++row) {
    EXPECT_EQ(received_numbers.data<std::int64_t>()[row],
              std::int64_t{1} << 40 | static_cast<std::int64_t>(received.data<float>()[row * kWidth]));
  }

  const TensorView back = exchange.combine(ctx, received);
  EXPECT_EQ(floats_of(back), expected_back);
  EXPECT_GT(clock.seconds(TimePart::kExchange), 0.0);

  // Chunk by chunk: what was negated on the expert side comes back negated, each row to its place.
  RoundTrip trip(ctx, exchange, sent);
  for (std::int64_t chunk = 0; chunk < exchange.chunks(); ++chunk) {
    const TensorView arrived = trip.arrived(chunk);
    const Range own = exchange.received_rows(chunk);
    EXPECT_EQ(floats_of(arrived), std::vector<float>(expected.values.begin() + own.begin * kWidth,
                                                     expected.values.begin() + own.end * kWidth));
    const TensorView answers = arena.allocate(arrived.shape());
    std::ranges::transform(arrived.values<float>(), answers.data<float>(), std::negate<>());
    trip.send_back(chunk, answers);
  }
  std::ranges::transform(expected_back, expected_back.begin(), std::negate<>());
  EXPECT_EQ(floats_of(trip.finish()), expected_back);
}

TEST(ExchangeTest, RowsFindTheirExpertAndTheWayBack) {
  for (int size = 1; size <= world().size(); ++size) {
    if (world().size() % size != 0) continue;
    const ProcessGrid grid(world(), size);
    for (const std::int64_t experts : {2, 4, 5, 7}) {
      for (const RowsFor rows : {rows_for, all_to_one, only_rank_zero, nothing}) {
        for (const RowOrder order : {RowOrder::kByExpert, RowOrder::kBySource}) {
          for (const std::int64_t chunks : {1, 2, 3, 100})
            expect_round_trip(grid, experts, rows, order, chunks);
        }
      }
    }
  }
}

TEST(ExchangeTest, RanksThatCutDifferentlyAreNamedBeforeRowsTravel) {
  if (world().size() == 1) GTEST_SKIP() << "one rank agrees with itself";
  const ProcessGrid grid(world(), world().size());
  Arena arena;
  Context ctx{.arena = &arena, .grid = &grid};
  Exchange exchange(4 * world().size(), grid, RowOrder::kByExpert, world().rank() == 0 ? 2 : 3);
  try {
    agree(exchange, ctx, make_plan(4 * world().size(), rows_for));
    ADD_FAILURE() << "no rank noticed";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::AllOf(testing::HasSubstr("experts in 2 chunks"),
                                             testing::HasSubstr("experts in 3 chunks")));
  }
}

TEST(ExchangeTest, RefusesAPlanThatDoesNotAddUp) {
  const ProcessGrid grid(world(), world().size());
  Arena arena;
  Context ctx{.arena = &arena, .grid = &grid};
  Exchange exchange(4, grid);
  DispatchPlan plan = make_plan(4, rows_for);
  plan.choice_of_row.push_back(0);
  EXPECT_THROW(exchange.agree(ctx, rows_of(plan)), Error);
  EXPECT_THROW(agree(exchange, ctx, make_plan(5, rows_for)), Error);
}

// What agree() says when the last rank is somewhere else.
std::string disagreement(void (*move)(Context&)) {
  const ProcessGrid grid(world(), world().size());
  Arena arena;
  Context ctx{.arena = &arena, .grid = &grid};
  ctx.batch.step = 6;
  ctx.layer = 3;
  if (world().rank() == world().size() - 1) move(ctx);
  Exchange exchange(4, grid);
  try {
    agree(exchange, ctx, make_plan(4, rows_for));
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(ExchangeTest, RanksInDifferentPlacesAreNamedBeforeRowsTravel) {
  if (world().size() == 1) GTEST_SKIP() << "one rank agrees with itself";
  EXPECT_EQ(disagreement([](Context&) {}), "");
  const std::string step = disagreement([](Context& ctx) { ++ctx.batch.step; });
  EXPECT_NE(step.find("step 7, micro-step 0, layer 3, training, 4 experts"), std::string::npos) << step;
  EXPECT_NE(step.find("step 8, micro-step 0, layer 3, training, 4 experts"), std::string::npos) << step;
  const std::string layer = disagreement([](Context& ctx) { ctx.layer = 1; });
  EXPECT_NE(layer.find("layer 1"), std::string::npos) << layer;
  const std::string pass = disagreement([](Context& ctx) { ctx.training = false; });
  EXPECT_NE(pass.find("evaluation"), std::string::npos) << pass;
}

}  // namespace
}  // namespace conclave::test
