// A number that is not finite on one rank alone: all ranks skip the same step, and nothing moves on any.
// ranks: 2 3
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "tests/support/mpi_environment.h"
#include "tests/support/tiny_experiment.h"
#include "trainer/train_step.h"

namespace conclave::test {
namespace {

std::vector<std::vector<float>> state_of(Trainer& trainer) {
  std::vector<std::vector<float>> state;
  for (const ShardedTensor& tensor : trainer.checkpoint_tensors()) {
    const auto values = tensor.local.values<float>();
    state.emplace_back(values.begin(), values.end());
  }
  return state;
}

class SkippedStepTest : public testing::Test {
 protected:
  config::Experiment experiment_ = tiny_experiment(tiny_text_file());
};

// The weight is broken on one rank, in turn each; gradients and losses of all others are sound.
TEST_F(SkippedStepTest, NotANumberOnOneRank) {
  Trainer trainer(experiment_, world());
  ASSERT_FALSE(train_step(trainer, 0).skipped);
  // Replicated ones, and experts, which are broken on the one rank that holds them.
  for (const int broken_rank : {0, world().size() - 1}) {
    for (Parameter* parameter : trainer.model.parameters()) {
      if (!parameter->name().starts_with("layers.1.moe")) continue;
      SCOPED_TRACE(fmt::format("{} on rank {}", parameter->name(), broken_rank));
      // A rank whose experts see none of the few tokens has sound gradients: break all of them.
      const std::span<float> weights = parameter->mutable_value().values<float>();
      const std::vector<float> sound(weights.begin(), weights.end());
      const std::vector<std::vector<float>> before = state_of(trainer);
      if (world().rank() == broken_rank) {
        std::ranges::fill(weights, std::numeric_limits<float>::quiet_NaN());
      }
      const bool holds_any = !weights.empty();
      std::int32_t broken = world().rank() == broken_rank && holds_any ? 1 : 0;
      world().all_reduce(buffer_view(std::span(&broken, 1)));
      const StepResult result = train_step(trainer, 1);
      EXPECT_EQ(result.skipped, broken != 0);
      std::ranges::copy(sound, weights.begin());
      EXPECT_EQ(state_of(trainer), before);
      EXPECT_EQ(trainer.optimizer->updates(), 1);
    }
  }
  EXPECT_FALSE(train_step(trainer, 1).skipped) << "nothing of it is left";
}

}  // namespace
}  // namespace conclave::test
