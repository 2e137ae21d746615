// The mixture of local experts against the formula: loss, every gradient, and what it counts.
#include "layers/model/mixture_regression.h"

#include <gtest/gtest.h>

#include "comm/self/self_communicator.h"
#include "tests/support/model_gradients.h"
#include "tests/support/operator_test.h"
#include "tests/support/reference/mixture_loss.h"

namespace conclave::test {
namespace {

using Complex = std::complex<double>;

constexpr std::int64_t kSamples = 7;
constexpr std::size_t I = 3;
constexpr std::size_t O = 2;

config::Experiment experiment(std::int64_t experts) {
  config::Experiment experiment;
  experiment.mutable_model()->set_kind(config::Model::mixture_regression);
  experiment.mutable_model()->set_init_std(0.6);
  experiment.mutable_model()->set_sigma(0.9);
  experiment.mutable_moe()->set_experts(experts);
  experiment.mutable_moe()->set_router(config::Moe::dense);
  experiment.mutable_moe()->set_d_ff(4);
  config::Regression& data = *experiment.mutable_data()->mutable_regression();
  data.set_inputs(I);
  data.set_outputs(O);
  return experiment;
}

struct ModelCase {
  config::Experiment setting;
  std::unique_ptr<Communicator> alone = make_self_communicator();
  ProcessGrid grid{*alone, 1};
  LocalContext ctx;
  MixtureRegression model;
  std::vector<float> inputs = random_values(kSamples * I, "inputs");
  std::vector<float> targets = random_values(kSamples * O, "targets");

  explicit ModelCase(std::int64_t experts) : setting(experiment(experts)), model(setting, grid) {
    ctx.grid = &grid;
    ctx.batch.sequence_length = 1;
    ctx.batch.global_sequences = kSamples;
  }
  ModelLoss forward(Range samples) {
    ctx.batch.sequences = samples.size();
    return model.forward(ctx, view(inputs, {kSamples, I}).rows(samples.begin, samples.end),
                         view(targets, {kSamples, O}).rows(samples.begin, samples.end));
  }
  template <class T>
  T reference(const NamedTensors<T>& at) const {
    const auto experts = static_cast<std::size_t>(setting.moe().experts());
    T sum(0.0);
    for (std::size_t t = 0; t < kSamples; ++t) {
      std::vector<T> x(&inputs[t * I], &inputs[t * I] + I);
      x.emplace_back(1.0);
      const std::vector<T> logits = conclave::reference::linear(x, at.at("gate.weight"), I + 1);
      std::vector<std::vector<T>> outputs;
      for (std::size_t e = 0; e < experts; ++e) {
        const auto slice = [&](const std::string& name) {
          const std::vector<T>& all = at.at(name);
          const auto size = static_cast<std::ptrdiff_t>(all.size() / experts);
          const auto first = all.begin() + static_cast<std::ptrdiff_t>(e) * size;
          return std::vector<T>(first, first + size);
        };
        const auto d_ff = static_cast<std::size_t>(setting.moe().d_ff());
        outputs.push_back(conclave::reference::linear(
            conclave::reference::swiglu(conclave::reference::linear(x, slice("experts.gate_up"), I + 1),
                                        d_ff),
            slice("experts.down"), d_ff));
      }
      sum +=
          reference::mixture_loss(logits, outputs, std::vector<double>(&targets[t * O], &targets[t * O] + O),
                                  setting.model().sigma());
    }
    return sum;
  }
};

class MixtureRegressionTest : public testing::TestWithParam<std::int64_t> {};

TEST_P(MixtureRegressionTest, LossAndEveryGradientMatchTheReference) {
  ModelCase c(GetParam());
  const auto values = values_of(c.model.parameters());
  const double exact = c.reference(values);
  constexpr double kLongestSum = kSamples * 2 * (I + 1);
  const ExpectedGradients expected([&](const NamedTensors<Complex>& at) { return c.reference(at) / 7.0; },
                                   values, kLongestSum);
  for (const std::vector<Range>& cut : {std::vector<Range>{{0, 7}}, {{0, 3}, {3, 3}, {3, 7}}}) {
    for (Parameter* parameter : c.model.parameters()) parameter->zero_gradient();
    double loss_sum = 0;
    for (const Range& samples : cut) {
      loss_sum += c.forward(samples).loss_sum;
      c.model.backward(c.ctx);
      c.ctx.memory.reset();
    }
    EXPECT_NEAR(loss_sum, exact, (kLongestSum + 16) * 16 * kUnit * exact);
    for (const Parameter* parameter : c.model.parameters())
      expected.expect_match(parameter->gradient().values<float>(), parameter->name());
  }
}

TEST_P(MixtureRegressionTest, CountsTheMostProbableExpert) {
  ModelCase c(GetParam());
  c.ctx.training = false;
  const ModelLoss loss = c.forward({0, kSamples});
  EXPECT_EQ(loss.targets, kSamples);
  const MoeStatistics& counted = c.model.statistics();
  std::vector<std::int64_t> expected(static_cast<std::size_t>(GetParam()));
  for (const std::int32_t expert : c.model.last_routing().experts.values<std::int32_t>())
    ++expected[static_cast<std::size_t>(expert)];
  EXPECT_EQ(counted.chosen_per_expert, expected);
  EXPECT_EQ(counted.tokens, kSamples);
  EXPECT_EQ(counted.chosen_per_choice, std::vector<std::int64_t>{kSamples});
  EXPECT_EQ(counted.sent_per_rank, std::vector<std::int64_t>{kSamples * GetParam()});
}

INSTANTIATE_TEST_SUITE_P(Experts, MixtureRegressionTest, testing::Values(1, 3));

}  // namespace
}  // namespace conclave::test
