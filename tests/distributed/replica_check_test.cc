// A bit that differs on one replica is found, and the rank and the tensor are named.
// ranks: 1 2 4
#include "trainer/replica_check.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "tests/support/mpi_environment.h"
#include "tests/support/tiny_experiment.h"
#include "trainer/shared_error.h"
#include "trainer/train_step.h"

namespace conclave::test {
namespace {

std::string complaint(Trainer& trainer) {
  try {
    check_replicas(trainer.grid, trainer.replicated_tensors(), 3);
  } catch (const SharedError& error) {
    return error.what();
  }
  return "";
}

void flip_a_bit(const ShardedTensor& tensor) { static_cast<std::uint8_t*>(tensor.local.raw())[5] ^= 0x10; }

TEST(ReplicaCheck, FindsTheOddRankAndTheTensor) {
  for (const int expert_parallel_size : expert_parallel_sizes()) {
    SCOPED_TRACE(fmt::format("expert_parallel_size {}", expert_parallel_size));
    config::Experiment experiment = tiny_experiment(tiny_text_file());
    experiment.mutable_parallel()->set_expert_parallel_size(expert_parallel_size);
    Trainer trainer(experiment, world());
    for (std::int64_t step = 0; step < 3; ++step) train_step(trainer, step);
    EXPECT_EQ(complaint(trainer), "") << "replicas are equal after some steps";

    const std::vector<ShardedTensor> tensors = trainer.replicated_tensors();
    const int damaged_rank = world().size() - 1;
    for (const ShardedTensor& tensor : tensors) {
      if (!tensor.name.starts_with("layers.1.moe") && !tensor.name.starts_with("embedding")) continue;
      const int replicas =
          tensor.sharding == Sharding::kReplicated ? world().size() : trainer.grid.expert_data().size();
      if (world().rank() == damaged_rank) flip_a_bit(tensor);
      const std::string message = complaint(trainer);
      if (world().rank() == damaged_rank) flip_a_bit(tensor);
      if (replicas == 1) {
        EXPECT_EQ(message, "") << "a copy that is alone differs from none";
        continue;
      }
      EXPECT_NE(message.find("after step 3"), std::string::npos) << message;
      EXPECT_NE(message.find(tensor.name), std::string::npos) << message;
      EXPECT_NE(message.find(fmt::format("rank {} (XXH3", damaged_rank)), std::string::npos) << message;
      const bool has_majority = replicas > 2;
      EXPECT_EQ(message.find("rank 0 (XXH3") == std::string::npos,
                has_majority || (tensor.sharding == Sharding::kExpert && expert_parallel_size > 1))
          << message;
    }
    EXPECT_EQ(complaint(trainer), "") << "all are mended";
  }
}

}  // namespace
}  // namespace conclave::test
