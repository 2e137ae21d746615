#include "trainer/train_step.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/self/self_communicator.h"
#include "tests/support/tiny_experiment.h"

namespace conclave {
namespace {

double norm_of(std::span<const float> values) {
  double squares = 0;
  for (const float value : values) squares += static_cast<double>(value) * value;
  return std::sqrt(squares);
}

std::vector<float> copy_of(ConstTensorView tensor) {
  const auto values = tensor.values<float>();
  return {values.begin(), values.end()};
}

class TrainStepTest : public testing::Test {
 protected:
  std::unique_ptr<Communicator> alone_ = make_self_communicator();
  config::Experiment experiment_ = test::tiny_experiment(test::tiny_text_file());
};

TEST_F(TrainStepTest, LossFalls) {
  experiment_.mutable_optim()->set_lr(1e-2);
  Trainer trainer(experiment_, *alone_);
  const double first = train_step(trainer, 0).loss;
  EXPECT_NEAR(first, std::log(256), 0.1) << "small weights know nothing";
  double last = first;
  for (std::int64_t step = 1; step < 20; ++step) last = train_step(trainer, step).loss;
  EXPECT_LT(last, first - 1);
  EXPECT_EQ(trainer.optimizer->updates(), 20);
}

// The bits of everything that a step may change.
std::vector<std::vector<float>> state_of(Trainer& trainer) {
  std::vector<std::vector<float>> state;
  for (const ShardedTensor& tensor : trainer.checkpoint_tensors()) state.push_back(copy_of(tensor.local));
  return state;
}

TEST_F(TrainStepTest, NotANumberSkipsTheStep) {
  Trainer trainer(experiment_, *alone_);
  train_step(trainer, 0);
  for (Parameter* parameter : trainer.model.parameters()) {
    SCOPED_TRACE(parameter->name());
    float& weight = parameter->mutable_value().values<float>()[1];
    const float sound = weight;
    const std::vector<std::vector<float>> before = state_of(trainer);
    // A row of the embedding that no token reads still takes part as a row of the tied head.
    weight = std::numeric_limits<float>::quiet_NaN();
    const StepResult result = train_step(trainer, 1);
    EXPECT_TRUE(result.skipped);
    weight = sound;
    EXPECT_EQ(state_of(trainer), before);
    EXPECT_EQ(trainer.optimizer->updates(), 1);
  }
  EXPECT_FALSE(train_step(trainer, 1).skipped) << "nothing of it is left";
  EXPECT_EQ(trainer.optimizer->updates(), 2);
}

// Losses are divided by the tokens of the global batch where they arise: however a step is cut, its gradients
// are the same but for rounding. How far one rounding moves them is measured on weights that are off by one
// unit in the last place.
TEST_F(TrainStepTest, GradientsDoNotDependOnTheMicroBatch) {
  experiment_.mutable_moe()->set_capacity_factor(0);
  experiment_.mutable_moe()->set_balance_scope(config::Moe::sequence);
  experiment_.mutable_moe()->set_z_loss(1e-3);
  experiment_.mutable_train()->set_micro_batch(4);
  Trainer whole(experiment_, *alone_);
  const StepResult expected = train_step(whole, 0);

  const auto largest_deviation = [&](const Trainer& other) {
    double largest = 0;
    for (std::size_t p = 0; p < whole.model.parameters().size(); ++p) {
      std::vector<float> difference = copy_of(other.model.parameters()[p]->gradient());
      const std::vector<float> gradient = copy_of(whole.model.parameters()[p]->gradient());
      for (std::size_t i = 0; i < difference.size(); ++i) difference[i] -= gradient[i];
      largest = std::max(largest, norm_of(difference) / norm_of(gradient));
    }
    return largest;
  };
  Trainer moved(experiment_, *alone_);
  for (Parameter* parameter : moved.model.parameters()) {
    for (float& value : parameter->mutable_value().values<float>()) value = std::nextafter(value, 2 * value);
  }
  constexpr double kUnit = std::numeric_limits<float>::epsilon();
  constexpr double kRoundings = 16;  // of a step's own sums, against the one of each weight
  const StepResult moved_result = train_step(moved, 0);
  const double loss_bound =
      kRoundings * (std::abs(moved_result.loss - expected.loss) + kUnit * expected.loss);
  const double bound = kRoundings * (largest_deviation(moved) + kUnit);
  EXPECT_LT(bound, 1e-2) << "a bound that says something";

  for (const std::int64_t micro_batch : {1, 2, 3}) {
    SCOPED_TRACE(testing::Message() << "micro_batch " << micro_batch);
    experiment_.mutable_train()->set_micro_batch(micro_batch);
    Trainer cut(experiment_, *alone_);
    const StepResult result = train_step(cut, 0);
    EXPECT_NEAR(result.loss, expected.loss, loss_bound);
    EXPECT_NEAR(result.gradient_norm, expected.gradient_norm, bound * expected.gradient_norm);
    EXPECT_LE(largest_deviation(cut), bound);
  }
}

// Counts have no rounding: the bias of a router is the same to the last bit.
TEST_F(TrainStepTest, RouterStateDoesNotDependOnTheMicroBatch) {
  test::apply(experiment_, "sigmoid");
  experiment_.mutable_moe()->set_capacity_factor(0);
  experiment_.mutable_moe()->set_balance_scope(config::Moe::sequence);
  std::vector<std::vector<float>> biases;
  for (const std::int64_t micro_batch : {4, 2, 1}) {  // 1, 2 and 4 micro-batches
    experiment_.mutable_train()->set_micro_batch(micro_batch);
    Trainer trainer(experiment_, *alone_);
    for (std::int64_t step = 0; step < 4; ++step) train_step(trainer, step);
    biases.emplace_back();
    for (const ShardedTensor& tensor : trainer.model.state()) {
      const std::vector<float> bias = copy_of(tensor.local);
      biases.back().insert(biases.back().end(), bias.begin(), bias.end());
    }
  }
  EXPECT_EQ(biases[0].size(), 2U * 4U);  // layers, experts
  EXPECT_GT(norm_of(biases[0]), 0);
  EXPECT_EQ(biases[1], biases[0]);
  EXPECT_EQ(biases[2], biases[0]);
}

std::map<std::string, std::vector<float>> values_of(const Trainer& trainer) {
  std::map<std::string, std::vector<float>> values;
  for (const Parameter* parameter : trainer.model.parameters())
    values[parameter->name()] = copy_of(parameter->value());
  return values;
}

TEST_F(TrainStepTest, FrozenParametersKeepTheirBits) {
  experiment_.mutable_train()->add_freeze("layers.*.moe.router.*");
  experiment_.mutable_train()->add_freeze("layers.1.moe.experts.down[0-1,3]");
  Trainer trainer(experiment_, *alone_);
  const auto before = values_of(trainer);
  for (std::int64_t step = 0; step < 2; ++step) train_step(trainer, step);
  for (const auto& [name, after] : values_of(trainer)) {
    SCOPED_TRACE(name);
    const bool is_router = name.find("router") != std::string::npos;
    EXPECT_EQ(after == before.at(name), is_router);
    if (name != "layers.1.moe.experts.down") continue;
    const std::size_t expert = after.size() / 4;
    for (std::size_t e = 0; e < 4; ++e) {
      EXPECT_EQ(std::equal(after.begin() + static_cast<std::ptrdiff_t>(e * expert),
                           after.begin() + static_cast<std::ptrdiff_t>((e + 1) * expert),
                           before.at(name).begin() + static_cast<std::ptrdiff_t>(e * expert)),
                e != 2)
          << "expert " << e;
    }
  }
}

TEST_F(TrainStepTest, ARouterLearnsTheExpertsOfItsSource) {
  experiment_.mutable_optim()->set_lr(1e-2);
  test::apply(experiment_, "supervised");  // the source's experts are 1 and 3 of 4
  Trainer trainer(experiment_, *alone_);
  const auto accuracy = [&] {
    for (const auto& [block, layer] : trainer.model.moe_layers()) layer->take_statistics();
    train_step(trainer, 0);
    MoeStatistics sum;
    for (const auto& [block, layer] : trainer.model.moe_layers()) sum.add(layer->take_statistics());
    EXPECT_EQ(sum.labelled_tokens, 2 * 4 * 19);
    return static_cast<double>(sum.labelled_hits) / static_cast<double>(sum.labelled_tokens);
  };
  EXPECT_LT(accuracy(), 0.9);
  for (std::int64_t step = 1; step < 15; ++step) train_step(trainer, step);
  EXPECT_GT(accuracy(), 0.99);
}

TEST_F(TrainStepTest, AllocatesNoActivationsAfterTheSecondStep) {
  Trainer trainer(experiment_, *alone_);
  train_step(trainer, 0);
  train_step(trainer, 1);
  const std::int64_t allocations = trainer.arena.system_allocations();
  EXPECT_GT(allocations, 0);
  for (std::int64_t step = 2; step < 8; ++step) train_step(trainer, step);
  EXPECT_EQ(trainer.arena.system_allocations(), allocations);
  EXPECT_EQ(trainer.arena.used_bytes(), 0U);
}

TEST_F(TrainStepTest, TwoEqualRunsAreBitwiseEqual) {
  Trainer first(experiment_, *alone_);
  Trainer second(experiment_, *alone_);
  for (std::int64_t step = 0; step < 3; ++step) {
    const StepResult a = train_step(first, step);
    const StepResult b = train_step(second, step);
    EXPECT_EQ(a.loss, b.loss);
    EXPECT_EQ(a.gradient_norm, b.gradient_norm);
  }
  EXPECT_EQ(state_of(first), state_of(second));
}

// Losses so low that the next step must be a spike.
void expect_low_losses(Trainer& trainer) {
  for (int i = 0; i < 40; ++i) trainer.loss_window.add(1 + 0.01 * (i % 3));
}

TEST_F(TrainStepTest, ASpikeIsKeptByDefault) {
  Trainer trainer(experiment_, *alone_);
  expect_low_losses(trainer);
  const StepResult result = train_step(trainer, 0);
  EXPECT_TRUE(result.spike);
  EXPECT_FALSE(result.skipped);
  EXPECT_LT(result.spike_limit, 1.1);
  EXPECT_EQ(trainer.optimizer->updates(), 1);
  EXPECT_EQ(trainer.loss_window.losses().back(), result.loss);
}

TEST_F(TrainStepTest, ASpikeIsSkippedOnRequest) {
  for (const config::Train::Spike rule : {config::Train::skip, config::Train::rewind}) {
    experiment_.mutable_train()->set_spike(rule);
    Trainer trainer(experiment_, *alone_);
    expect_low_losses(trainer);
    const std::vector<std::vector<float>> before = state_of(trainer);
    const StepResult result = train_step(trainer, 0);
    EXPECT_TRUE(result.spike);
    EXPECT_TRUE(result.skipped);
    EXPECT_EQ(state_of(trainer), before);
    EXPECT_EQ(trainer.optimizer->updates(), 0);
    EXPECT_EQ(trainer.loss_window.losses().size(), 40U)
        << "what was not kept says nothing about what is usual";
  }
}

TEST_F(TrainStepTest, TrainsOnTheBatchThatTheOrderNames) {
  Trainer plain(experiment_, *alone_);
  Trainer shifted(experiment_, *alone_);
  shifted.batch_order.leave_out(0);
  const StepResult second = train_step(shifted, 0);
  EXPECT_EQ(second.first_sample, 4);
  EXPECT_NE(second.loss, train_step(plain, 0).loss);
  Trainer both(experiment_, *alone_);
  both.batch_order.leave_out(1);
  EXPECT_EQ(train_step(both, 0).first_sample, 0);
  EXPECT_EQ(train_step(both, 1).first_sample, 8);
}

}  // namespace
}  // namespace conclave
