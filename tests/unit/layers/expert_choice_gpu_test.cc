// Expert choice on a GPU against the host, which has tests of its own: choices number for number.
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "layers/moe/router/expert_choice.h"
#include "tests/support/gpu_router_case.h"

namespace conclave::test {
namespace {

config::Experiment experiment(std::int64_t experts, std::int64_t top_k, double capacity_factor) {
  config::Experiment result;
  config::Moe& moe = *result.mutable_moe();
  moe.set_router(config::Moe::expert_choice);
  moe.set_experts(experts);
  moe.set_top_k(top_k);
  moe.set_capacity_factor(capacity_factor);
  moe.set_routed_scale(1.5);
  moe.set_balance_loss(0);
  moe.set_z_loss(0.25);
  return result;
}

struct Sizes {
  std::int64_t sequences = 1;
  std::int64_t length = 1;
  std::int64_t experts = 1;
};

// p [T, E] of few values, so that ties are common, zeros of both signs among them, and some NaN.
std::vector<float> coarse_probabilities(const Sizes& sizes) {
  const RandomStream random(11, "probabilities");
  std::vector<float> p(static_cast<std::size_t>(sizes.sequences * sizes.length * sizes.experts));
  for (std::size_t i = 0; i < p.size(); ++i) {
    const std::uint32_t value = random.bits(i) % 11;
    p[i] = value == 10  ? std::numeric_limits<float>::quiet_NaN()
           : value == 9 ? -0.0F
                        : static_cast<float>(value) / 8.0F;
  }
  return p;
}

// The last tokens of each sequence: none of the first, all of the last.
std::vector<std::uint8_t> uneven_padding(const Sizes& sizes) {
  std::vector<std::uint8_t> padding;
  for (std::int64_t sequence = 0; sequence < sizes.sequences; ++sequence)
    for (std::int64_t t = 0; t < sizes.length; ++t)
      padding.push_back((sizes.length - t) * std::max<std::int64_t>(sizes.sequences - 1, 1) <=
                        sequence * sizes.length);
  return padding;
}

class ExpertChoiceGpuTest : public GpuRouterTest {
 protected:
  void expect_same_choice(const Sizes& sizes, double capacity_factor, const std::vector<float>& p,
                          const std::vector<std::uint8_t>& padding) {
    SCOPED_TRACE(fmt::format("{} sequences of {}, E {}, factor {}, padded {}", sizes.sequences, sizes.length,
                             sizes.experts, capacity_factor, !padding.empty()));
    const config::Moe moe =
        experiment(sizes.experts, std::min<std::int64_t>(sizes.experts, 2), capacity_factor).moe();
    const Shape shape{sizes.sequences * sizes.length, sizes.experts};
    Context ctx;
    ctx.batch.sequences = sizes.sequences;
    ctx.batch.sequence_length = sizes.length;
    if (!padding.empty()) ctx.padding = view(padding, {shape[0]});
    const auto choose = [&](Arena& arena, ConstTensorView probabilities) {
      ctx.arena = &arena;
      const TensorView experts = arena.allocate(shape, DType::kInt32);
      const TensorView weights = arena.allocate(shape);
      choose_tokens(ctx, moe, {probabilities, experts, weights});
      ctx.synchronize();
      const auto chosen = experts.values<std::int32_t>();
      return std::pair(std::vector<std::int32_t>(chosen.begin(), chosen.end()), copy_of(weights));
    };
    Arena on_host;
    const auto expected = choose(on_host, view(p, shape));
    ctx.gpu = engine_.get();
    Arena on_gpu(engine_->device());
    const TensorView probabilities = on_gpu.allocate(shape);
    engine_->staging().upload(probabilities.raw(), p.data(), p.size() * sizeof(float));
    const auto actual = choose(on_gpu, probabilities);
    EXPECT_EQ(actual.first, expected.first);
    for (std::size_t i = 0; i < actual.second.size(); ++i) {
      if (std::isnan(expected.second[i])) {
        EXPECT_TRUE(std::isnan(actual.second[i])) << i;
      } else {
        EXPECT_EQ(actual.second[i], expected.second[i]) << i;
      }
    }
  }
};

TEST_F(ExpertChoiceGpuTest, ChoosesAsTheHost) {
  // Among them: one token, one expert, more tokens than a block has threads, more experts than a warp lanes.
  for (const Sizes& sizes : {Sizes{1, 1, 1}, Sizes{2, 1, 5}, Sizes{3, 9, 1}, Sizes{4, 40, 2},
                             Sizes{3, 300, 2}, Sizes{1, 5, 70}, Sizes{1, 256, 2}, Sizes{2, 0, 3}})
    for (const double factor : {0.01, 0.7, 100.0}) {
      const std::vector<float> p = coarse_probabilities(sizes);
      expect_same_choice(sizes, factor, p, {});
      if (p.empty()) continue;
      expect_same_choice(sizes, factor, p, uneven_padding(sizes));
    }
}

TEST_F(ExpertChoiceGpuTest, ChoosesAmongEqualsAndAmongNaN) {
  const Sizes sizes{2, 270, 3};
  for (const float value : {0.25F, std::numeric_limits<float>::quiet_NaN()})
    expect_same_choice(sizes, 0.9, std::vector<float>(2 * 270 * 3, value), {});
}

TEST_F(ExpertChoiceGpuTest, RoutesAndDifferentiatesAsTheHost) {
  for (const std::int64_t experts : {1, 4, 33}) {
    for (const std::int64_t length : {1, 9}) {
      SCOPED_TRACE(fmt::format("E {} S {}", experts, length));
      const std::int64_t top_k = std::min<std::int64_t>(experts, 2);
      GpuRouterCase c(experiment(experts, top_k, 1.25), 2, length);
      c.expect_same(*engine_);
      c.training = false;
      c.expect_same(*engine_);
      c.training = true;
      c.padding = uneven_padding({2, length, experts});
      c.expect_same(*engine_);
    }
  }
}

TEST_F(ExpertChoiceGpuTest, RoutesTokensThatAreNotNumbers) {
  GpuRouterCase c(experiment(4, 2, 1.0), 2, 6);
  c.x[5] = std::numeric_limits<float>::quiet_NaN();
  const auto result = c.expect_same(*engine_);
  EXPECT_TRUE(std::ranges::all_of(result.experts, [](std::int32_t e) { return e < 4; }));
}

TEST_F(ExpertChoiceGpuTest, RoutesNoTokens) {
  GpuRouterCase c(experiment(4, 2, 1.0), 0, 5);
  EXPECT_TRUE(c.expect_same(*engine_).experts.empty());
}

TEST_F(ExpertChoiceGpuTest, RepeatsBitByBit) {
  GpuRouterCase c(experiment(5, 2, 1.0), 3, 30);
  const auto first = c.on_gpu(*engine_);
  const auto second = c.on_gpu(*engine_);
  EXPECT_EQ(second.weights, first.weights);
  EXPECT_EQ(second.dx, first.dx);
  EXPECT_EQ(second.gradients, first.gradients);
  EXPECT_EQ(second.sums, first.sums);
}

}  // namespace
}  // namespace conclave::test
