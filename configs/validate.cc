#include "configs/validate.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdint>
#include <string>

#include "comm/base/error.h"
#include "configs/moe_layers.h"
#include "configs/rules.h"

namespace conclave::config {

std::vector<std::string> divisors(std::int64_t number, std::int64_t largest) {
  std::vector<std::string> found;
  for (std::int64_t i = 1; i <= std::min(number, largest); ++i) {
    if (number % i == 0) found.push_back(std::to_string(i));
  }
  return found;
}

std::vector<Violation> violations(const Experiment& experiment) {
  std::vector<Violation> broken;
  check_model(experiment, broken);
  if (experiment.moe().experts() > 0) check_moe(experiment, broken);
  check_data(experiment, broken);
  check_regression(experiment, broken);
  check_training(experiment, broken);
  check_cuda_graphs(experiment, broken);
  return broken;
}

namespace {

void check_expert_parallel_size(const Experiment& experiment, int world_size) {
  const std::int64_t size = experiment.parallel().expert_parallel_size();
  if (size == 0) return;
  const std::int64_t experts = most_experts(experiment);
  const std::int64_t largest = std::max<std::int64_t>(experts, 1);
  if (world_size % size == 0 && size <= largest) return;

  const std::string reason = world_size % size != 0
                                 ? fmt::format("does not divide the number of ranks, {}", world_size)
                             : experts == 0 ? "needs experts to share, and the model is dense"
                                            : fmt::format("is more than moe.experts, {}", experts);
  throw ConfigError(fmt::format("parallel.expert_parallel_size: {} {}; valid: {}, or auto", size, reason,
                                fmt::join(divisors(world_size, largest), ", ")));
}

// Where one rank holds all experts nothing travels, and any number does no harm: a file for many ranks runs
// on one, too.
void check_exchange_chunks(const Experiment& experiment, int world_size) {
  const std::int64_t chunks = experiment.parallel().exchange_chunks();
  const std::int64_t experts = most_experts(experiment);
  std::int64_t ranks = experiment.parallel().expert_parallel_size();
  if (ranks == 0) {  // auto: the largest that fits
    ranks = std::stoll(divisors(world_size, std::max<std::int64_t>(experts, 1)).back());
  }
  const std::int64_t held = (experts + ranks - 1) / ranks;
  if (ranks == 1 || chunks <= held) return;
  throw ConfigError(
      fmt::format("parallel.exchange_chunks: {} chunks of the experts of a rank, and none holds more than {} "
                  "(moe.experts {} over {} ranks); valid: 1 to {}",
                  chunks, held, experts, ranks, held));
}

}  // namespace

void check_for_world(const Experiment& experiment, int world_size) {
  check_expert_parallel_size(experiment, world_size);
  check_exchange_chunks(experiment, world_size);
}

}  // namespace conclave::config
