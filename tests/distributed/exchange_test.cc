// ranks: 1 2 3 4
// Where every row goes: each value names its source, its expert and its place, so that a misplaced row shows.
#include "layers/moe/exchange.h"

#include <gtest/gtest.h>

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

void expect_round_trip(int expert_parallel_size, std::int64_t experts, RowsFor rows, RowOrder order) {
  SCOPED_TRACE(fmt::format("expert_parallel_size {} experts {} order {}", expert_parallel_size, experts,
                           static_cast<int>(order)));
  const ProcessGrid grid(world(), expert_parallel_size);
  Arena arena;
  StepClock clock;
  Context ctx{.arena = &arena, .grid = &grid, .clock = &clock};
  Exchange exchange(experts, grid, order);
  const DispatchPlan plan = make_plan(experts, rows);
  exchange.agree(ctx, plan);

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

  // By local expert, then source, then the order of the source; or by source, then local expert.
  const int first_source = world().rank() - grid.expert_parallel().rank();
  std::vector<float> expected;
  std::vector<std::int64_t> expected_offsets = {0};
  const auto expect_block = [&](int source, std::int64_t expert) {
    for (std::int64_t row = 0; row < rows(source, expert); ++row) {
      for (std::int64_t d = 0; d < kWidth; ++d) expected.push_back(row_value(source, expert, row, d));
    }
  };
  const auto end_run = [&] {
    expected_offsets.push_back(static_cast<std::int64_t>(expected.size()) / kWidth);
  };
  const Range local = grid.local_experts(experts);
  if (order == RowOrder::kByExpert) {
    for (std::int64_t expert = local.begin; expert < local.end; ++expert) {
      for (int source = 0; source < expert_parallel_size; ++source)
        expect_block(first_source + source, expert);
      end_run();
    }
  } else {
    for (int source = 0; source < expert_parallel_size; ++source) {
      for (std::int64_t expert = local.begin; expert < local.end; ++expert) {
        expect_block(first_source + source, expert);
        end_run();
      }
    }
  }

  const TensorView received = exchange.dispatch(ctx, sent);
  EXPECT_EQ(std::vector<float>(received.values<float>().begin(), received.values<float>().end()), expected);
  const auto offsets = exchange.received_offsets();
  EXPECT_EQ(std::vector<std::int64_t>(offsets.begin(), offsets.end()), expected_offsets);
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
  EXPECT_EQ(std::vector<float>(back.values<float>().begin(), back.values<float>().end()), expected_back);
  EXPECT_GT(clock.seconds(TimePart::kExchange), 0.0);
}

TEST(ExchangeTest, RowsFindTheirExpertAndTheWayBack) {
  for (int size = 1; size <= world().size(); ++size) {
    if (world().size() % size != 0) continue;
    for (const std::int64_t experts : {2, 4, 5, 7}) {
      for (const RowsFor rows : {rows_for, all_to_one, only_rank_zero, nothing}) {
        for (const RowOrder order : {RowOrder::kByExpert, RowOrder::kBySource})
          expect_round_trip(size, experts, rows, order);
      }
    }
  }
}

TEST(ExchangeTest, RefusesAPlanThatDoesNotAddUp) {
  const ProcessGrid grid(world(), world().size());
  Arena arena;
  Context ctx{.arena = &arena, .grid = &grid};
  Exchange exchange(4, grid);
  DispatchPlan plan = make_plan(4, rows_for);
  plan.choice_of_row.push_back(0);
  EXPECT_THROW(exchange.agree(ctx, plan), Error);
  EXPECT_THROW(exchange.agree(ctx, make_plan(5, rows_for)), Error);
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
    exchange.agree(ctx, make_plan(4, rows_for));
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
