#include "trainer/evaluate.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <numeric>

#include "comm/self/self_communicator.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tiny_experiment.h"
#include "trainer/data/dataset.h"
#include "trainer/train_step.h"
#include "trainer/trainer.h"

namespace conclave {
namespace {

struct LossSum {
  double loss = 0;
  std::int64_t targets = 0;
};

class EvaluateTest : public testing::Test {
 protected:
  // Two sources, the second one short.
  EvaluateTest() {
    experiment_ = test::tiny_experiment(test::tiny_text_file());
    const std::filesystem::path digits = directory_.path() / "digits.txt";
    std::ofstream file(digits);
    for (int i = 0; i < 900; ++i) file << i * i << ' ';
    config::Source& source = *experiment_.mutable_data()->add_train();
    source.set_name("digits");
    source.set_path(digits.string());
    source.set_weight(0.5);
    experiment_.mutable_data()->set_valid_fraction(0.04);
    experiment_.mutable_model()->set_init_std(0.3);  // so that experts matter
  }

  static Evaluation run(Trainer& trainer, std::int64_t micro_batch, std::int64_t max_sequences = 0) {
    return evaluate({.model = trainer.model,
                     .dataset = trainer.dataset,
                     .grid = trainer.grid,
                     .arena = trainer.arena,
                     .batch = trainer.batch,
                     .micro_batch = micro_batch,
                     .max_sequences = max_sequences});
  }

  // Each listed sequence in a forward of its own.
  static LossSum direct_sum(Trainer& trainer, int source, const std::vector<std::int64_t>& sequences) {
    const auto length = static_cast<std::size_t>(trainer.dataset.sequence_length());
    std::vector<std::int32_t> tokens(length);
    std::vector<std::int32_t> targets(length);
    LossSum sum;
    for (const std::int64_t sequence : sequences) {
      dynamic_cast<const data::Dataset&>(trainer.dataset)
          .held_out_sequence(source, sequence, tokens, targets);
      Context ctx = trainer.context(
          {.sequences = 1, .sequence_length = static_cast<std::int64_t>(length), .global_sequences = 1},
          /*training=*/false);
      const Shape shape{static_cast<std::int64_t>(length)};
      const auto result =
          trainer.model.forward(ctx, tensor_view(std::span<const std::int32_t>(tokens), shape),
                                tensor_view(std::span<const std::int32_t>(targets), shape));
      trainer.arena.reset();
      sum.loss += result.loss_sum;
      sum.targets += result.targets;
    }
    return sum;
  }
  static std::vector<std::int64_t> all_sequences(const Trainer& trainer, int source) {
    std::vector<std::int64_t> sequences(static_cast<std::size_t>(trainer.dataset.held_out_sequences(source)));
    std::iota(sequences.begin(), sequences.end(), 0);
    return sequences;
  }
  // A loss is a sum of fp32 values of order ln 256 whose logits come from sums of some hundred terms.
  static double tolerance(const LossSum& sum) { return 1000 * 1.2e-7 * sum.loss; }

  test::TemporaryDirectory directory_;
  config::Experiment experiment_;
  std::unique_ptr<Communicator> alone_ = make_self_communicator();
};

TEST_F(EvaluateTest, LossBySourceIsTheSumOverItsSequences) {
  // Training would drop nearly everything: evaluation nothing, or sequences would depend on their batch.
  experiment_.mutable_moe()->set_capacity_factor(0.1);
  Trainer trainer(experiment_, *alone_);
  for (std::int64_t step = 0; step < 3; ++step) train_step(trainer, step);
  for (const std::int64_t micro_batch : {1, 3, 1000}) {
    SCOPED_TRACE(testing::Message() << "micro_batch " << micro_batch);
    const Evaluation evaluation = run(trainer, micro_batch);
    ASSERT_EQ(evaluation.sources.size(), 2U);
    LossSum all;
    for (int source = 0; source < 2; ++source) {
      const HeldOutSource& held_out = evaluation.sources[static_cast<std::size_t>(source)];
      const LossSum expected = direct_sum(trainer, source, all_sequences(trainer, source));
      EXPECT_EQ(held_out.name, source == 0 ? "tiny" : "digits");
      EXPECT_EQ(held_out.targets,
                trainer.dataset.sources()[static_cast<std::size_t>(source)].held_out.size());
      EXPECT_EQ(held_out.targets, expected.targets);
      EXPECT_NEAR(held_out.loss_sum, expected.loss, tolerance(expected));
      EXPECT_DOUBLE_EQ(held_out.loss(), held_out.loss_sum / static_cast<double>(expected.targets));
      all.loss += expected.loss;
      all.targets += expected.targets;
    }
    const double mean = all.loss / static_cast<double>(all.targets);
    EXPECT_NEAR(evaluation.loss(), mean, tolerance(all) / static_cast<double>(all.targets));
  }
}

TEST_F(EvaluateTest, LimitedToEvenlySpacedSequences) {
  Trainer trainer(experiment_, *alone_);
  const std::int64_t held_out = trainer.dataset.held_out_sequences(0);
  ASSERT_GT(held_out, 20);
  for (const std::int64_t micro_batch : {1, 2, 50}) {
    const Evaluation evaluation = run(trainer, micro_batch, /*max_sequences=*/5);
    const LossSum expected =
        direct_sum(trainer, 0, {0, held_out / 5, 2 * held_out / 5, 3 * held_out / 5, 4 * held_out / 5});
    EXPECT_EQ(evaluation.sources[0].targets, 5 * trainer.dataset.sequence_length());
    EXPECT_NEAR(evaluation.sources[0].loss_sum, expected.loss, tolerance(expected));
  }
  const Evaluation unlimited = run(trainer, 2, /*max_sequences=*/1'000'000);
  EXPECT_EQ(unlimited.sources[0].targets, trainer.dataset.sources()[0].held_out.size());
}

TEST_F(EvaluateTest, CountsTheExpertsOfEachSource) {
  Trainer trainer(experiment_, *alone_);
  const Evaluation evaluation = run(trainer, 4);
  const std::int64_t top_k = experiment_.moe().top_k();
  for (int source = 0; source < 2; ++source) {
    const HeldOutSource& held_out = evaluation.sources[static_cast<std::size_t>(source)];
    ASSERT_EQ(held_out.expert_loads.size(), trainer.model.moe_layers().size());
    for (const std::vector<std::int64_t>& loads : held_out.expert_loads) {
      ASSERT_EQ(static_cast<std::int64_t>(loads.size()), experiment_.moe().experts());
      // Places that only fill a sequence up are not routed.
      EXPECT_EQ(std::accumulate(loads.begin(), loads.end(), std::int64_t{0}), held_out.targets * top_k);
    }
  }
}

TEST_F(EvaluateTest, ASourceThatHoldsNothingOutIsLeftOut) {
  experiment_.mutable_data()->set_valid_fraction(0);
  Trainer trainer(experiment_, *alone_);
  const Evaluation evaluation = run(trainer, 4);
  EXPECT_TRUE(evaluation.sources.empty());
  EXPECT_EQ(evaluation.loss(), 0.0);
}

TEST_F(EvaluateTest, LeavesTrainingAsItWas) {
  Trainer evaluated(experiment_, *alone_);
  Trainer undisturbed(experiment_, *alone_);
  for (std::int64_t step = 0; step < 2; ++step) {
    train_step(undisturbed, step);
    train_step(evaluated, step);
    run(evaluated, 3);
  }
  EXPECT_EQ(train_step(evaluated, 2).loss, train_step(undisturbed, 2).loss);
  for (std::size_t i = 0; i < evaluated.model.moe_layers().size(); ++i) {
    const MoeStatistics& counted = evaluated.model.moe_layers()[i].layer->statistics();
    const MoeStatistics& expected = undisturbed.model.moe_layers()[i].layer->statistics();
    EXPECT_GT(counted.tokens, 0);
    EXPECT_EQ(counted.tokens, expected.tokens);
    EXPECT_EQ(counted.chosen_per_expert, expected.chosen_per_expert);
    EXPECT_EQ(counted.dropped_per_choice, expected.dropped_per_choice);
    EXPECT_EQ(counted.chosen_per_choice, expected.chosen_per_choice);
    EXPECT_EQ(counted.sent_per_rank, expected.sent_per_rank);
    EXPECT_EQ(counted.router_entropy_sum, expected.router_entropy_sum);
    EXPECT_EQ(counted.balance_loss_raw, expected.balance_loss_raw);
    EXPECT_EQ(counted.z_loss_raw, expected.z_loss_raw);
  }
}

}  // namespace
}  // namespace conclave
