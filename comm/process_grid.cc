#include "comm/process_grid.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>
#include <vector>

#include "comm/base/error.h"

namespace conclave {
namespace {

std::vector<int> divisors(int number) {
  std::vector<int> found;
  for (int candidate = 1; candidate <= number; ++candidate) {
    if (number % candidate == 0) found.push_back(candidate);
  }
  return found;
}

}  // namespace

ProcessGrid::ProcessGrid(Communicator& world, int expert_parallel_size) : world_(&world) {
  const int ranks = world.size();
  if (expert_parallel_size < 1 || ranks % expert_parallel_size != 0) {
    throw ConfigError(fmt::format(
        "parallel.expert_parallel_size is {}, and must divide the number of ranks, {}: use one of {}, "
        "or auto",
        expert_parallel_size, ranks, fmt::join(divisors(ranks), ", ")));
  }
  expert_parallel_ = world.split(world.rank() / expert_parallel_size, world.rank(), "expert_parallel");
  expert_data_ = world.split(world.rank() % expert_parallel_size, world.rank(), "expert_data");
}

Range ProcessGrid::local_experts(std::int64_t experts) const {
  return experts_of(experts, expert_parallel_->rank());
}

Range ProcessGrid::experts_of(std::int64_t experts, int expert_parallel_rank) const {
  return partition(experts, expert_parallel_->size(), expert_parallel_rank);
}

std::string ProcessGrid::describe(std::int64_t experts) const {
  constexpr int kMaxRows = 64;  // of a large job, enough to see the pattern
  const int ranks = world_->size();
  const int expert_parallel_size = expert_parallel_->size();
  std::string table = fmt::format("ranks: {} = expert_parallel {} x expert_data {}\n", ranks,
                                  expert_parallel_size, expert_data_->size());
  const auto out = std::back_inserter(table);
  fmt::format_to(out, "{:>6}  {:>15}  {:>11}  {}\n", "rank", "expert_parallel", "expert_data", "experts");
  for (int rank = 0; rank < std::min(ranks, kMaxRows); ++rank) {
    const int expert_parallel_rank = rank % expert_parallel_size;
    const Range held = experts_of(experts, expert_parallel_rank);
    const std::string held_text =
        held.size() == 0 ? "none" : fmt::format("{}-{} ({})", held.begin, held.end - 1, held.size());
    fmt::format_to(out, "{:>6}  {:>15}  {:>11}  {}\n", rank, expert_parallel_rank,
                   rank / expert_parallel_size, held_text);
  }
  if (ranks > kMaxRows) fmt::format_to(out, "{:>6}  {} more ranks\n", "...", ranks - kMaxRows);
  return table;
}

int automatic_expert_parallel_size(int world_size, std::int64_t experts) {
  int best = 1;
  for (const int divisor : divisors(world_size)) {
    if (divisor <= experts) best = divisor;
  }
  return best;
}

}  // namespace conclave
