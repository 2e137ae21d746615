// ranks: 1 2 3 4
// The same experiment on every layout of these ranks and on one rank alone: losses,
// gradient norms, all gradients and the state of the routers.
//
// Every rank also trains the one-rank reference by itself, in a world of one, and compares its own shards
// with it. The bound is the error of the arithmetic itself: fp32 rounding is amplified from step to step by
// the training dynamics, by a factor that is measured in the same test, on a second one-rank run whose
// initial weights differ by one unit in the last place.
#include <gtest/gtest.h>

#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "comm/self/self_communicator.h"
#include "tests/support/deviation.h"
#include "tests/support/mpi_environment.h"
#include "tests/support/tiny_experiment.h"
#include "tests/support/trainer_state.h"
#include "trainer/train_step.h"
#include "trainer/trainer.h"

namespace conclave {
namespace {

using test::Deviation;
using test::deviation;

constexpr std::int64_t kSteps = 20;
constexpr std::int64_t kRouterSteps = 4;  // of the variants that differ in the router alone

class LayoutTest : public testing::TestWithParam<const char*> {};

std::int64_t steps_of(const config::Experiment& experiment) {
  return experiment.moe().router() == config::Moe::softmax ? kSteps : kRouterSteps;
}

TEST_P(LayoutTest, TrainsTheSame) {
  Communicator& world = test::world();
  config::Experiment experiment = test::tiny_experiment(test::tiny_text_file());
  experiment.mutable_moe()->set_experts(5);  // uneven shards at 2, 3 and 4
  experiment.mutable_moe()->set_capacity_factor(0);
  experiment.mutable_moe()->set_balance_scope(config::Moe::sequence);
  experiment.mutable_moe()->set_z_loss(1e-3);
  experiment.mutable_train()->set_steps(kSteps);
  experiment.mutable_train()->set_global_batch(6);
  experiment.mutable_train()->set_micro_batch(2);
  test::apply(experiment, GetParam());

  const auto alone = make_self_communicator();
  Trainer reference(experiment, *alone);
  Trainer perturbed(experiment, *alone);
  test::perturb(perturbed);

  struct Layout {
    int expert_parallel_size;
    std::unique_ptr<Trainer> trainer;
  };
  std::vector<Layout> layouts;
  for (const int size : test::expert_parallel_sizes()) {
    config::Experiment laid_out = experiment;
    laid_out.mutable_parallel()->set_expert_parallel_size(size);
    layouts.push_back({size, std::make_unique<Trainer>(laid_out, world)});
  }

  // The amplification of one rounding error, so far at its largest; a step's own sums round a few more times.
  Deviation amplified;
  constexpr double kRoundings = 16;
  constexpr double kUnit = std::numeric_limits<float>::epsilon();
  for (std::int64_t step = 0; step < steps_of(experiment); ++step) {
    const StepResult expected = train_step(reference, step);
    const Deviation seen = deviation(perturbed, train_step(perturbed, step), reference, expected);
    amplified.take_larger(seen);
    for (Layout& layout : layouts) {
      std::string worst;
      const StepResult result = train_step(*layout.trainer, step);
      const Deviation actual = deviation(*layout.trainer, result, reference, expected, &worst);
      SCOPED_TRACE(testing::Message() << "step " << step << ", expert_parallel_size "
                                      << layout.expert_parallel_size << ", worst parameter " << worst);
      EXPECT_LE(actual.loss, kRoundings * (amplified.loss + kUnit));
      EXPECT_LE(actual.norm, kRoundings * (amplified.norm + kUnit));
      EXPECT_LE(actual.gradient, kRoundings * (amplified.gradient + kUnit));
      EXPECT_EQ(test::router_state(*layout.trainer), test::router_state(reference));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, LayoutTest,
                         testing::Values("", "untied", "shared", "top_all", "dense_every_second", "switch",
                                         "sigmoid", "groups", "masked", "local_experts", "hash",
                                         "dense_mixture", "gshard", "noisy_top_k", "hierarchical",
                                         "expert_choice", "pad_to_capacity", "gateless", "dropout",
                                         "overrides", "force_balanced", "supervised"),
                         [](const auto& variant) {
                           return std::string(variant.param).empty() ? std::string("base")
                                                                     : std::string(variant.param);
                         });

}  // namespace
}  // namespace conclave
