// ranks: 1 2
// A step's loss, gradients and routing counts are those of its samples computed one by one, each at its own
// length without padding: however short the lines are, and however the global batch is cut into ranks and
// micro-batches. Windows of text are samples that are never short.
//
// The bound on losses and gradients is the error of the arithmetic: what one unit in the last place of the
// weights does to the one-by-one result, times the few roundings of a step's own sums.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <string>
#include <tuple>
#include <vector>

#include "comm/self/self_communicator.h"
#include "layers/tensor/philox.h"
#include "tests/support/data_files.h"
#include "tests/support/mpi_environment.h"
#include "tests/support/tiny_experiment.h"
#include "trainer/data/dataset.h"
#include "trainer/routing_summary.h"
#include "trainer/train_step.h"
#include "trainer/trainer.h"

namespace conclave {
namespace {

constexpr std::int64_t kGlobalBatch = 8;
constexpr std::int64_t kLength = 19;  // S of the tiny experiment

// Lines of 1 to 30 bytes: some are cut, most are padded, some are empty.
std::string text_of_lines() {
  const RandomStream random(5, "lines");
  std::string text;
  std::uint64_t index = 0;
  for (int line = 0; line < 80; ++line) {
    const std::uint64_t length = random.bits(index++) % 30;
    for (std::uint64_t i = 0; i < length; ++i) text += static_cast<char>('a' + random.bits(index++) % 26);
    text += '\n';
  }
  return test::write_file("lines.txt", text);
}

struct Outcome {
  double loss = 0;
  std::vector<std::vector<float>> gradients;  // of this rank's shards
  RoutingSummary routing;
};

std::vector<std::vector<float>> gradients_of(const Trainer& trainer) {
  std::vector<std::vector<float>> gradients;
  for (const Parameter* parameter : trainer.model.parameters()) {
    const auto values = ConstTensorView(parameter->gradient()).values<float>();
    gradients.emplace_back(values.begin(), values.end());
  }
  return gradients;
}

// The samples of step 0 one by one on this rank alone. `moved`: with all weights one unit off.
Outcome one_by_one(const config::Experiment& experiment, bool moved) {
  const auto alone = make_self_communicator();
  Trainer trainer(experiment, *alone);
  for (Parameter* parameter : trainer.model.parameters()) {
    parameter->zero_gradient();
    if (!moved) continue;
    for (float& value : parameter->mutable_value().values<float>()) value = std::nextafter(value, 2 * value);
  }
  const data::Dataset dataset(experiment);
  std::int64_t global_tokens = 0;
  for (std::int64_t sample = 0; sample < kGlobalBatch; ++sample)
    global_tokens += dataset.training_length(sample);

  Outcome outcome;
  std::vector<std::int32_t> tokens(kLength), targets(kLength);
  for (std::int64_t sample = 0; sample < kGlobalBatch; ++sample) {
    const std::int64_t length = dataset.training_sequence(sample, tokens, targets);
    // Neighbours in the step, so that scopes wider than a sequence could be told apart.
    BatchPosition position{.micro_step = sample,
                           .micro_steps = kGlobalBatch,
                           .first_sequence = sample,
                           .sequences = 1,
                           .sequence_length = length,
                           .most_sequences = 1,
                           .global_sequences = kGlobalBatch};
    position.global_padding_tokens = kGlobalBatch * length - global_tokens;  // below 0 for a long one
    Context ctx = trainer.context(position, /*training=*/true);
    const auto part = [&](const std::vector<std::int32_t>& ids) {
      return tensor_view(std::span(ids).first(static_cast<std::size_t>(length)), {length});
    };
    const auto result = trainer.model.forward(ctx, part(tokens), part(targets));
    trainer.model.backward(ctx);
    trainer.arena.reset();
    EXPECT_EQ(result.targets, length);
    outcome.loss += result.loss_sum / static_cast<double>(global_tokens);
  }
  outcome.gradients = gradients_of(trainer);
  outcome.routing = take_routing_summary(trainer.model, *alone);
  return outcome;
}

double norm_of(std::span<const float> values) {
  double squares = 0;
  for (const float value : values) squares += static_cast<double>(value) * value;
  return std::sqrt(squares);
}

double distance(std::span<const float> a, std::span<const float> b) {
  std::vector<float> difference(a.size());
  std::ranges::transform(a, b, difference.begin(), std::minus<>());
  return norm_of(difference);
}

using Case = std::tuple<config::Data::Samples, config::Moe::Router>;
class PaddingTest : public testing::TestWithParam<Case> {};

TEST_P(PaddingTest, AStepIsTheSumOfItsSamples) {
  const auto [samples, router] = GetParam();
  config::Experiment experiment =
      test::tiny_experiment(samples == config::Data::lines ? text_of_lines() : test::tiny_text_file());
  experiment.mutable_data()->set_samples(samples);
  config::Moe& moe = *experiment.mutable_moe();
  moe.set_router(router);
  moe.set_experts(5);
  moe.set_capacity_factor(router == config::Moe::expert_choice ? 1 : 0);
  moe.set_balance_scope(config::Moe::sequence);
  if (router == config::Moe::expert_choice) moe.set_balance_loss(0);
  moe.set_z_loss(1e-3);
  experiment.mutable_train()->set_global_batch(kGlobalBatch);

  const Outcome expected = one_by_one(experiment, false);
  const Outcome moved = one_by_one(experiment, true);
  constexpr double kRoundings = 16;
  constexpr double kUnit = std::numeric_limits<float>::epsilon();
  double gradient_bound = kUnit;
  for (std::size_t p = 0; p < expected.gradients.size(); ++p)
    gradient_bound = std::max(
        gradient_bound, distance(moved.gradients[p], expected.gradients[p]) / norm_of(expected.gradients[p]));
  gradient_bound *= kRoundings;
  EXPECT_LT(gradient_bound, 1e-2) << "a bound that says something";
  const double loss_bound = kRoundings * (std::abs(moved.loss - expected.loss) + kUnit * expected.loss);

  Communicator& world = test::world();
  for (const std::int64_t micro_steps : {1, 2, 4}) {
    SCOPED_TRACE(testing::Message() << micro_steps << " micro-batches");
    experiment.mutable_train()->set_micro_batch(kGlobalBatch / (micro_steps * world.size()));
    Trainer trainer(experiment, world);
    ASSERT_EQ(batch_cut(experiment, world.size()).micro_steps(), micro_steps);
    const StepResult result = train_step(trainer, 0);
    EXPECT_NEAR(result.loss, expected.loss, loss_bound);
    EXPECT_EQ(trainer.trained_tokens, result.tokens);

    for (std::size_t p = 0; p < expected.gradients.size(); ++p) {
      const Parameter& parameter = *trainer.model.parameters()[p];
      const std::int64_t all_rows = parameter.global_shape()[0];
      const Range rows = parameter.local_rows();
      const auto width = static_cast<std::int64_t>(expected.gradients[p].size()) / all_rows;
      const auto whole = std::span(expected.gradients[p])
                             .subspan(static_cast<std::size_t>(rows.begin * width),
                                      static_cast<std::size_t>(rows.size() * width));
      EXPECT_LE(distance(ConstTensorView(parameter.gradient()).values<float>(), whole),
                gradient_bound * norm_of(expected.gradients[p]))
          << parameter.name();
    }

    // Counts are integers; sums of fp32 terms agree as their terms do.
    const RoutingSummary routing = take_routing_summary(trainer.model, world);
    ASSERT_EQ(routing.layers.size(), expected.routing.layers.size());
    for (std::size_t i = 0; i < routing.layers.size(); ++i) {
      const MoeStatistics& layer = routing.layers[i];
      const MoeStatistics& wanted = expected.routing.layers[i];
      EXPECT_EQ(layer.tokens, result.tokens);
      EXPECT_EQ(layer.tokens, wanted.tokens);
      EXPECT_EQ(layer.chosen_per_expert, wanted.chosen_per_expert);
      EXPECT_EQ(layer.dropped_per_choice, wanted.dropped_per_choice);
      EXPECT_EQ(layer.chosen_per_choice, wanted.chosen_per_choice);
      EXPECT_NEAR(layer.router_entropy_sum, wanted.router_entropy_sum,
                  gradient_bound * wanted.router_entropy_sum);
      EXPECT_NEAR(layer.balance_loss_raw, wanted.balance_loss_raw, gradient_bound * wanted.balance_loss_raw);
      EXPECT_NEAR(layer.z_loss_raw, wanted.z_loss_raw, gradient_bound * wanted.z_loss_raw);
    }
    EXPECT_EQ(routing.load_imbalance(), expected.routing.load_imbalance());
    EXPECT_EQ(routing.dead_experts(), expected.routing.dead_experts());
    EXPECT_EQ(routing.load_entropy(), expected.routing.load_entropy());
    EXPECT_EQ(routing.dropped_fraction(), 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Samples, PaddingTest,
                         testing::Values(Case{config::Data::windows, config::Moe::softmax},
                                         Case{config::Data::lines, config::Moe::softmax},
                                         Case{config::Data::lines, config::Moe::expert_choice}),
                         [](const auto& tested) {
                           return config::Data::Samples_Name(std::get<0>(tested.param)) + "_" +
                                  config::Moe::Router_Name(std::get<1>(tested.param));
                         });

}  // namespace
}  // namespace conclave
