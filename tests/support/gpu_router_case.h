// One router on the host and on a GPU (tests/support/test_gpu.h), with the same parameters and tokens: the
// same choices, and weights, sums and gradients that differ by roundings.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <vector>

#include "comm/cuda/runtime.h"
#include "comm/self/self_communicator.h"
#include "layers/moe/gpu_tally.h"
#include "layers/moe/router/router.h"
#include "tests/support/operator_test.h"
#include "tests/support/test_gpu.h"

namespace conclave::test {

// Within 100 roundings of values of order one, or both NaN.
inline void expect_near(const std::vector<float>& actual, const std::vector<float>& expected,
                        const char* what) {
  constexpr double kBound = 100 * std::numeric_limits<float>::epsilon();
  ASSERT_EQ(actual.size(), expected.size()) << what;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    if (std::isnan(expected[i])) {
      EXPECT_TRUE(std::isnan(actual[i])) << what << " " << i << " is " << actual[i];
    } else {
      EXPECT_NEAR(actual[i], expected[i], kBound * (1 + std::abs(expected[i]))) << what << " " << i;
    }
  }
}

struct GpuRouterCase {
  static constexpr std::int64_t D = 11;

  GpuRouterCase(const config::Experiment& described, std::int64_t sequences, std::int64_t length)
      : setting(described) {
    setting.mutable_model()->set_d_model(D);
    setting.mutable_model()->set_init_std(0.3);
    batch.first_sequence = 3;
    batch.sequences = sequences;
    batch.sequence_length = length;
    batch.global_sequences = sequences + 4;
    x = random_values(batch.tokens() * D, "x");
  }

  struct Result {
    std::vector<std::int32_t> experts;
    std::vector<float> weights, entropy, dx;
    std::vector<std::vector<float>> gradients;
    std::vector<float> sums;  // router_entropy_sum, balance_loss_raw, z_loss_raw
  };

  Result on_host() {
    Arena arena;
    const auto router = made_router();
    Context ctx = context(arena);
    MoeStatistics statistics;
    Result result;
    const Routing routing = router->forward(ctx, view(std::as_const(x), {batch.tokens(), D}), statistics);
    const Values<float> dweights = gradients_of(routing);
    const TensorView dx =
        ctx.training ? router->backward(ctx, view(dweights, routing.weights.shape())) : TensorView();
    fill(result, *router, routing, dx);
    for (const double sum :
         {statistics.router_entropy_sum, statistics.balance_loss_raw, statistics.z_loss_raw})
      result.sums.push_back(static_cast<float>(sum));
    return result;
  }

  Result on_gpu(cuda::Engine& engine) {
    Arena arena(engine.device());
    const auto router = made_router();
    EXPECT_TRUE(router->has_kernels());
    for (Parameter* parameter : parameters_of(*router)) parameter->move_to(engine.stream());
    Context ctx = context(arena);
    ctx.gpu = &engine;
    const GpuTally tally(ctx, setting.moe().experts(), setting.moe().top_k());
    ctx.routing_sums = &tally.sums();
    const auto uploaded = [&](const std::vector<float>& values, const Shape& shape) {
      const TensorView tensor = arena.allocate(shape);
      engine.staging().upload(tensor.raw(), values.data(), values.size() * sizeof(float));
      return tensor;
    };
    MoeStatistics statistics;
    Result result;
    const std::int64_t waits = engine.stream().waits();
    const Routing routing = router->forward(ctx, uploaded(x, {batch.tokens(), D}), statistics);
    const TensorView dx =
        ctx.training ? router->backward(ctx, uploaded(gradients_of(routing), routing.weights.shape()))
                     : TensorView();
    EXPECT_EQ(engine.stream().waits(), waits);
    engine.stream().synchronize();
    EXPECT_TRUE(engine.calls_on_host().empty());
    fill(result, *router, routing, dx);
    for (const double* sum :
         {tally.sums().router_entropy_sum, tally.sums().balance_loss_raw, tally.sums().z_loss_raw})
      result.sums.push_back(static_cast<float>(*sum));
    return result;
  }

  // Returns what the host found.
  Result expect_same(cuda::Engine& engine) {
    const Result expected = on_host();
    const Result actual = on_gpu(engine);
    EXPECT_EQ(actual.experts, expected.experts);
    expect_near(actual.weights, expected.weights, "weight");
    expect_near(actual.entropy, expected.entropy, "entropy");
    expect_near(actual.sums, expected.sums, "sum");
    expect_near(actual.dx, expected.dx, "dx");
    EXPECT_EQ(actual.gradients.size(), expected.gradients.size());
    for (std::size_t i = 0; i < expected.gradients.size(); ++i)
      expect_near(actual.gradients[i], expected.gradients[i], "gradient of a parameter");
    return expected;
  }

  config::Experiment setting;
  BatchPosition batch;
  bool training = true;
  std::vector<float> x;               // [T, D]
  std::vector<std::uint8_t> padding;  // [T], or empty
  std::function<void(Parameter&)> adjust = [](Parameter&) {};

 private:
  static std::vector<Parameter*> parameters_of(Router& router) {
    std::vector<Parameter*> parameters;
    router.collect_parameters(parameters);
    return parameters;
  }
  std::unique_ptr<Router> made_router() const {
    auto router = make_router(setting, "router");
    for (Parameter* parameter : parameters_of(*router)) adjust(*parameter);
    return router;
  }
  Context context(Arena& arena) const {
    Context ctx{.arena = &arena, .grid = &grid_};
    ctx.batch = batch;
    ctx.training = training;
    if (!padding.empty()) ctx.padding = view(padding, {batch.tokens()});
    ctx.batch.global_padding_tokens = ctx.padding_tokens();
    return ctx;
  }
  static Values<float> gradients_of(const Routing& routing) {
    return random_values(routing.weights.elements(), "dweights");
  }
  void fill(Result& result, Router& router, const Routing& routing, ConstTensorView dx) const {
    const auto experts = routing.experts.values<std::int32_t>();
    result.experts.assign(experts.begin(), experts.end());
    result.weights = copy_of(routing.weights);
    result.entropy = copy_of(routing.entropy);
    if (!training) return;
    result.dx = copy_of(dx);
    for (Parameter* parameter : parameters_of(router))
      result.gradients.push_back(copy_of(parameter->gradient()));
  }

  std::unique_ptr<Communicator> world_ = make_self_communicator();
  ProcessGrid grid_{*world_, 1};
};

// Tests that use it.
class GpuRouterTest : public testing::Test {
 protected:
  void SetUp() override {
    if (cuda::gpus().empty()) GTEST_SKIP() << "no GPU here";
    engine_ = std::make_unique<cuda::Engine>(0);
  }
  EmulatedGpus gpus_{1};
  std::unique_ptr<cuda::Engine> engine_;
};

}  // namespace conclave::test
