#include "trainer/activation_memory.h"

#include <gtest/gtest.h>

#include "comm/self/self_communicator.h"
#include "tests/support/tiny_experiment.h"
#include "trainer/trainer.h"

namespace conclave {
namespace {

// What forward leaves in the arena.
double measured(const config::Experiment& experiment) {
  const auto alone = make_self_communicator();
  Trainer trainer(experiment, *alone);
  const data::BatchCut cut = batch_cut(experiment, 1);
  data::load_training(trainer.dataset, cut, 0, 0, 0, trainer.batch);
  Context ctx = trainer.context(data::position_of(cut, 0, 0, 0, trainer.dataset.sequence_length()), true);
  trainer.model.forward(ctx, trainer.batch.input_view(), trainer.batch.target_view());
  return static_cast<double>(trainer.arena.used_bytes());
}

TEST(ActivationMemoryTest, IsWhatForwardKeeps) {
  for (const char* variant : {"", "shared", "switch", "dense_every_second"}) {
    SCOPED_TRACE(variant);
    config::Experiment experiment = test::tiny_experiment(test::tiny_text_file());
    experiment.mutable_model()->set_max_seq(64);
    experiment.mutable_model()->set_layers(4);
    experiment.mutable_moe()->set_capacity_factor(0);
    experiment.mutable_moe()->set_d_ff(60);
    test::apply(experiment, variant);
    const std::int64_t tokens = experiment.train().micro_batch() * 64;
    const ActivationMemory memory(experiment, tokens, /*has_peers=*/false);
    EXPECT_NEAR(measured(experiment) / memory.none, 1, 0.05);
    experiment.mutable_train()->set_recompute(config::Train::experts);
    EXPECT_NEAR(measured(experiment) / memory.experts, 1, 0.05);
    experiment.mutable_train()->set_recompute(config::Train::block);
    EXPECT_NEAR(measured(experiment) / memory.block, 1, 0.05);
  }
}

}  // namespace
}  // namespace conclave
