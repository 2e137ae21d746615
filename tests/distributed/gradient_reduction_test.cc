// Sums and norms of gradients on every arrangement of the ranks.

// ranks: 1 2 3 4
#include "optim/gradient_reduction.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/process_grid.h"
#include "layers/tensor/philox.h"
#include "optim/gradient_clip.h"
#include "optim/value_gather.h"
#include "tests/support/mpi_environment.h"

namespace conclave::test {
namespace {

double norm_of(const Ownership& ownership) { return GradientNorm(ownership).compute(); }

constexpr std::int64_t kExperts = 5;  // over 2, 3 or 4 ranks: uneven shards
constexpr std::int64_t kMoreThanABucket = (std::int64_t{1} << 20) + 12'345;
constexpr std::int64_t kEmbeddingColumns = 131;
constexpr std::int64_t kEmbeddingRows = kMoreThanABucket / kEmbeddingColumns + 1;

// The parameters of a small model on one rank. Several share a bucket, one needs two, one is empty.
struct Model {
  std::vector<std::unique_ptr<Parameter>> owned;
  std::vector<Parameter*> parameters;

  explicit Model(const ProcessGrid& grid) {
    const Range local = grid.local_experts(kExperts);
    add(std::make_unique<Parameter>("embedding", Shape{kEmbeddingRows, kEmbeddingColumns}));
    add(std::make_unique<Parameter>("norm", Shape{13}));
    add(std::make_unique<Parameter>("experts.up", Shape{kExperts, 31, 17}, local));
    add(std::make_unique<Parameter>("empty", Shape{0}));
    add(std::make_unique<Parameter>("experts.down", Shape{kExperts, 17, 33}, local));
    add(std::make_unique<Parameter>("head", Shape{101, 7}));
  }
  void add(std::unique_ptr<Parameter> parameter) {
    parameters.push_back(parameter.get());
    owned.push_back(std::move(parameter));
  }
};

// What rank `rank` contributes to row `row` of a parameter: rough numbers, so that the order of sums matters.
float contribution(const RandomStream& random, std::uint64_t i) { return random.uniform(i) - 0.5F; }
RandomStream stream(const Parameter& parameter, int rank, std::int64_t row) {
  return {9, parameter.name() + "/" + std::to_string(rank), static_cast<std::uint64_t>(row)};
}

// Calls visit(row of the global tensor, elements of that row) for each expert,
// or once for a replicated parameter.
template <class Visit>
void for_each_row(const Parameter& parameter, Visit visit) {
  if (parameter.sharding() == Sharding::kReplicated) return visit(0, parameter.gradient().values<float>());
  const Range held = parameter.local_rows();
  for (std::int64_t row = held.begin; row < held.end; ++row) {
    visit(row, parameter.gradient().rows(row - held.begin, row - held.begin + 1).values<float>());
  }
}

void set_gradient(const Parameter& parameter, int rank) {
  for_each_row(parameter, [&](std::int64_t row, std::span<float> gradient) {
    const RandomStream random = stream(parameter, rank, row);
    for (std::size_t i = 0; i < gradient.size(); ++i) gradient[i] = contribution(random, i);
  });
}

void set_gradients(const Model& model, int rank) {
  for (const Parameter* parameter : model.parameters) set_gradient(*parameter, rank);
}

// The ranks whose gradients of `parameter` belong together, in rank order.
std::vector<int> contributors(const Parameter& parameter, const ProcessGrid& grid) {
  const int expert_parallel_size = grid.expert_parallel().size();
  std::vector<int> ranks;
  for (int rank = 0; rank < grid.world().size(); ++rank) {
    const bool same_experts = rank % expert_parallel_size == grid.expert_parallel().rank();
    if (parameter.sharding() == Sharding::kReplicated || same_experts) ranks.push_back(rank);
  }
  return ranks;
}

std::vector<int> expert_parallel_sizes() {
  std::vector<int> sizes;
  for (int size = 1; size <= world().size(); ++size) {
    if (world().size() % size == 0) sizes.push_back(size);
  }
  return sizes;
}

TEST(GradientReduction, AddsDenseOverTheWorldAndExpertsOverTheirReplicas) {
  for (const int expert_parallel_size : expert_parallel_sizes()) {
    const ProcessGrid grid(world(), expert_parallel_size);
    const Model model(grid);
    const Ownership ownership(model.parameters, grid, /*sharded=*/false);
    GradientReduction reduction(ownership);
    for (int repeat = 0; repeat < 2; ++repeat) {
      set_gradients(model, world().rank());
      reduction.reduce();
      for (const Parameter* parameter : model.parameters) {
        std::int64_t wrong = 0;
        for_each_row(*parameter, [&](std::int64_t row, std::span<const float> gradient) {
          std::vector<RandomStream> streams;
          for (const int rank : contributors(*parameter, grid))
            streams.push_back(stream(*parameter, rank, row));
          // All of a small tensor, a sample of a large one that includes the boundary between its buckets.
          const std::size_t stride = gradient.size() > 100'000 ? 1023 : 1;
          for (std::size_t i = 0; i < gradient.size(); i += stride) {
            float wanted = contribution(streams[0], i);
            for (std::size_t r = 1; r < streams.size(); ++r) wanted += contribution(streams[r], i);
            wrong += gradient[i] != wanted;
          }
        });
        EXPECT_EQ(wrong, 0) << parameter->name() << ", expert_parallel_size " << expert_parallel_size;
      }
    }
  }
}

// The same bits, whatever is announced early and in which pieces. A gradient gets its value just before it is
// announced, or before reduce(): a sum that starts too early has something else in it.
TEST(GradientReduction, OverlapChangesNoBit) {
  for (const int expert_parallel_size : expert_parallel_sizes()) {
    const ProcessGrid grid(world(), expert_parallel_size);
    const Model model(grid);
    const Model early(grid);
    const Ownership ownership(model.parameters, grid, /*sharded=*/false);
    const Ownership early_ownership(early.parameters, grid, /*sharded=*/false);
    GradientReduction reduction(ownership);
    GradientReduction overlapped(early_ownership, /*overlaps=*/true);
    EXPECT_FALSE(reduction.overlaps());
    for (std::size_t announced = 0; announced <= early.parameters.size(); ++announced) {
      set_gradients(model, world().rank());
      for (Parameter* parameter : early.parameters)
        std::ranges::fill(parameter->gradient().values<float>(), 1e6F);
      reduction.gradients_complete(model.parameters);  // it doesn't overlap: nothing happens
      // From the last parameter on, as backward does it; the rest is left to reduce().
      for (std::size_t i = 0; i < announced; ++i) {
        const std::size_t parameter = early.parameters.size() - 1 - i;
        set_gradient(*early.parameters[parameter], world().rank());
        overlapped.gradients_complete(std::span(early.parameters).subspan(parameter, 1));
        // What backward does meanwhile.
        std::vector<float> others(10'000);
        world().all_reduce(buffer_view(std::span(others)));
      }
      for (std::size_t i = announced; i < early.parameters.size(); ++i)
        set_gradient(*early.parameters[early.parameters.size() - 1 - i], world().rank());
      reduction.reduce();
      overlapped.reduce();
      for (std::size_t p = 0; p < model.parameters.size(); ++p) {
        EXPECT_TRUE(std::ranges::equal(model.parameters[p]->gradient().values<float>(),
                                       early.parameters[p]->gradient().values<float>()))
            << model.parameters[p]->name() << ", " << announced << " announced";
      }
    }
  }
}

TEST(GradientNorm, CountsEachReplicaAndEachExpertOnceInEveryArrangement) {
  // The same global gradients on every arrangement, as after a reduction.
  const auto norm_with = [](int expert_parallel_size) {
    const ProcessGrid grid(world(), expert_parallel_size);
    const Model model(grid);
    set_gradients(model, 0);
    return norm_of(Ownership(model.parameters, grid, /*sharded=*/false));
  };
  // The reference holds every expert on this rank.
  const double with_all_experts = norm_with(1);
  for (const int expert_parallel_size : expert_parallel_sizes()) {
    const double norm = norm_with(expert_parallel_size);
    EXPECT_EQ(norm, with_all_experts) << "expert_parallel_size " << expert_parallel_size;
    std::vector<double> largest = {norm};
    world().all_reduce(buffer_view(std::span(largest)), ReduceOp::kMax);
    EXPECT_EQ(norm, largest[0]) << "the ranks differ";
  }
}

TEST(GradientNorm, EqualsTheRootOfTheSumOfSquares) {
  const ProcessGrid grid(world(), 1);
  const Model model(grid);
  set_gradients(model, 0);
  long double sum = 0;
  for (const Parameter* parameter : model.parameters) {
    for (const float value : parameter->gradient().values<float>())
      sum += static_cast<long double>(value) * value;
  }
  const auto wanted = static_cast<double>(std::sqrt(sum));
  const double additions = static_cast<double>(kMoreThanABucket) + 1e4;
  EXPECT_NEAR(norm_of(Ownership(model.parameters, grid, /*sharded=*/false)), wanted,
              additions * 0.5 * std::numeric_limits<double>::epsilon() * wanted);
}

TEST(GradientNorm, ANaNInOneExpertReachesEveryRank) {
  const ProcessGrid grid(world(), world().size());
  const Model model(grid);
  set_gradients(model, 0);
  const Parameter& experts = *model.parameters[2];
  if (experts.local_rows().contains(kExperts - 1)) {
    experts.gradient().values<float>().back() = std::numeric_limits<float>::quiet_NaN();
  }
  EXPECT_TRUE(std::isnan(norm_of(Ownership(model.parameters, grid, /*sharded=*/false))));
}

// optim.zero: 1 must change nothing but the place where state is kept.
TEST(ShardedState, RowsAreOwnedOnceAndSumsNormAndValuesAreThoseOfTheUnshardedWay) {
  for (const int expert_parallel_size : expert_parallel_sizes()) {
    const ProcessGrid grid(world(), expert_parallel_size);
    const Model whole(grid);
    const Model model(grid);
    set_gradients(whole, world().rank());
    set_gradients(model, world().rank());
    const Ownership everything(whole.parameters, grid, /*sharded=*/false);
    const Ownership ownership(model.parameters, grid, /*sharded=*/true);
    GradientReduction(everything).reduce();
    GradientReduction(ownership).reduce();
    EXPECT_EQ(norm_of(everything), norm_of(ownership));

    std::int64_t owned_elements = 0;
    for (std::size_t p = 0; p < model.parameters.size(); ++p) {
      const OwnedParameter& owned = ownership.parameters()[p];
      std::int64_t rows_of_all = 0;
      for (const Range rows : owned.rows_of_rank) rows_of_all += rows.size();
      EXPECT_EQ(rows_of_all * owned.columns, model.parameters[p]->value().elements())
          << owned.parameter->name();
      owned_elements += owned.mine.size() * owned.columns;
      const auto sums = owned.elements(model.parameters[p]->gradient(), owned.mine);
      EXPECT_TRUE(std::ranges::equal(sums, owned.elements(whole.parameters[p]->gradient(), owned.mine)))
          << owned.parameter->name();
      // The "update": owners alone set what all must have afterwards.
      std::ranges::copy(sums, owned.elements(model.parameters[p]->mutable_value(), owned.mine).begin());
    }
    ValueGather(ownership).gather();
    for (std::size_t p = 0; p < model.parameters.size(); ++p) {
      EXPECT_TRUE(std::ranges::equal(model.parameters[p]->value().values<float>(),
                                     whole.parameters[p]->gradient().values<float>()))
          << model.parameters[p]->name() << ", expert_parallel_size " << expert_parallel_size;
    }
    // Nobody keeps much more than its share of the large tensors.
    const std::int64_t shared_out = kEmbeddingRows * kEmbeddingColumns / world().size();
    EXPECT_LT(owned_elements, shared_out + 2 * 5 * 31 * 33 + Ownership::kBlockElements);
  }
}

}  // namespace
}  // namespace conclave::test
