#include "configs/rules.h"

#include <fmt/format.h>

#include <cstdint>

namespace conclave::config {
namespace {

void check_recompute(const Experiment& experiment, std::vector<Violation>& broken) {
  const Train::Recompute recompute = experiment.train().recompute();
  if (recompute == Train::experts && experiment.moe().experts() == 0) {
    broken.push_back({{"train.recompute", "moe.experts"},
                      "train.recompute: experts has nothing to compute again in a dense model; valid: none, "
                      "block, or moe.experts of at least 1"});
  }
  if (recompute == Train::block && experiment.model().kind() == Model::mixture_regression) {
    broken.push_back({{"train.recompute", "model.kind"},
                      "train.recompute: block needs blocks, and model.kind: mixture_regression has none; "
                      "valid: none or experts"});
  }
}

}  // namespace

void check_training(const Experiment& experiment, std::vector<Violation>& broken) {
  const int betas_count = experiment.optim().betas_size();
  if (betas_count != 0 && betas_count != 2) {
    broken.push_back(
        {{"optim.betas"},
         fmt::format("optim.betas: found {} of them; valid: two, such as [0.9, 0.95]", betas_count)});
  }
  const std::int64_t steps = experiment.train().steps();
  const std::int64_t warmup_steps = experiment.schedule().warmup_steps();
  if (warmup_steps >= steps) {
    broken.push_back({{"schedule.warmup_steps", "train.steps"},
                      fmt::format("schedule.warmup_steps: {} is not below train.steps, {}; valid: "
                                  "schedule.warmup_steps from 0 to {}, or train.steps of at least {}",
                                  warmup_steps, steps, steps - 1, warmup_steps + 1)});
  }
  check_recompute(experiment, broken);
}

}  // namespace conclave::config
