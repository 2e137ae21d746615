#include <gtest/gtest.h>

#include <ostream>

#include "layers/attention/attention.h"
#include "layers/tensor/philox.h"
#include "tests/support/reference/attention_module.h"
#include "tests/support/tolerance.h"

namespace conclave {
namespace {

using test::AttentionInputs;
using test::AttentionProblem;

constexpr std::int64_t kWidth = 6;  // D

struct ModuleCase {
  AttentionProblem problem;
  bool qk_norm = false;
  bool over_width = false;  // the norm, over all heads at once

  friend void PrintTo(const ModuleCase& c, std::ostream* out) {
    *out << c.problem.sequences << " x " << c.problem.sequence_length << ", heads " << c.problem.heads << "/"
         << c.problem.kv_heads << " of " << c.problem.head_dim << (c.qk_norm ? ", QK-norm" : "")
         << (c.over_width ? " over the width" : "") << (c.problem.causal ? "" : ", not causal")
         << (c.problem.padding.empty() ? "" : ", padding");
  }
};

config::Model model_of(const ModuleCase& c) {
  config::Model model;
  model.set_d_model(kWidth);
  model.set_heads(c.problem.heads);
  model.set_kv_heads(c.problem.kv_heads);
  model.set_head_dim(c.problem.head_dim);
  model.set_max_seq(256);
  model.set_rope_theta(100.0);
  model.set_norm_eps(1e-3);
  model.set_qk_norm(c.qk_norm);
  if (c.over_width) model.set_qk_norm_over(config::Model::width);
  model.set_causal(c.problem.causal);
  return model;
}

// The module with its surroundings; norms' weights are moved away from 1, so that they matter.
struct Fixture {
  ModuleCase setting;
  Arena arena;
  Context ctx;
  Attention attention;
  std::vector<Parameter*> parameters;
  Buffer x;
  Buffer dy;

  explicit Fixture(const ModuleCase& c)
      : setting(c),
        attention(model_of(c), "attention", 0.5, 0.4, 5),
        x({c.problem.tokens(), kWidth}, DType::kFloat32),
        dy({c.problem.tokens(), kWidth}, DType::kFloat32) {
    ctx.arena = &arena;
    ctx.batch.sequences = c.problem.sequences;
    ctx.batch.sequence_length = c.problem.sequence_length;
    if (!c.problem.padding.empty()) {
      ctx.padding = tensor_view(std::span<const std::uint8_t>(setting.problem.padding), {c.problem.tokens()});
    }
    attention.collect_parameters(parameters);
    for (std::size_t p = 2; p < parameters.size(); ++p)
      add_noise(parameters[p]->mutable_value(), parameters[p]->name());
    add_noise(x.view(), "x");
    add_noise(dy.view(), "dy");
  }
  static void add_noise(TensorView tensor, std::string_view name) {
    const RandomStream random(7, name);
    std::uint64_t index = 0;
    for (float& value : tensor.values<float>()) value += random.normal(index++);
  }
  template <class T>
  AttentionInputs<T> inputs() const {
    const auto copy = [](ConstTensorView tensor) {
      const auto values = tensor.values<float>();
      return std::vector<T>(values.begin(), values.end());
    };
    AttentionInputs<T> result{
        copy(x.view()), copy(parameters[0]->value()), copy(parameters[1]->value()), {}, {}};
    if (setting.qk_norm) {
      result.q_norm = copy(parameters[2]->value());
      result.k_norm = copy(parameters[3]->value());
    }
    return result;
  }
  template <class T>
  std::vector<T> reference(const AttentionInputs<T>& values) const {
    const config::Model model = model_of(setting);
    return test::reference_attention_module(setting.problem, kWidth, model.norm_eps(), model.rope_theta(),
                                            values);
  }
  // Each of the ten stages of the way forward (three projections, two norms, two rotations, scores,
  // softmax with average, output) and of the way backward is a sum of at most `longest` terms, or a few
  // operations, on values no larger than the tensor's largest times a small condition: that of the
  // softmax, 1 + its largest score.
  double tolerance(double largest) const {
    const AttentionProblem& p = setting.problem;
    const double longest = static_cast<double>(p.heads * p.head_dim + kWidth + p.tokens() * p.group());
    return 2.0 * 10.0 * test::dot_bound(longest, largest, 8) * (1.0 + largest_score());
  }
  // |q| |k| / sqrt(hd) of the longest row of x: a matrix of N(0, 0.5^2) stretches a vector by no more than
  // about 0.5 (sqrt(rows) + sqrt(columns)).
  double largest_score() const {
    const auto norm = [](ConstTensorView tensor) {
      double sum = 0.0;
      for (const float value : tensor.values<float>()) sum += static_cast<double>(value) * value;
      return std::sqrt(sum);
    };
    double largest_x = 0.0;
    for (std::int64_t t = 0; t < setting.problem.tokens(); ++t) {
      largest_x = std::max(largest_x, norm(x.view().rows(t, t + 1)));
    }
    const double spectral =
        0.5 * (std::sqrt(kWidth) + std::sqrt(static_cast<double>(setting.problem.head_dim)));
    return std::pow(largest_x * spectral, 2) / std::sqrt(static_cast<double>(setting.problem.head_dim));
  }
};

double largest(const std::vector<double>& values) {
  double result = 0.0;
  for (const double value : values) result = std::max(result, std::abs(value));
  return result;
}

void expect_near(std::span<const float> actual, const std::vector<double>& expected, double tolerance,
                 const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) {
    ASSERT_NEAR(actual[i], expected[i], tolerance) << what << "[" << i << "]";
  }
}

class AttentionModuleShapes : public testing::TestWithParam<ModuleCase> {};

TEST_P(AttentionModuleShapes, ForwardMatchesTheReference) {
  Fixture f(GetParam());
  const std::vector<double> expected = f.reference(f.inputs<double>());
  expect_near(f.attention.forward(f.ctx, f.x.view()).values<float>(), expected,
              f.tolerance(largest(expected)), "y");
}

// Against d/dx sum(dy y) = Im sum(dy y(x + ih)) / h of the reference. Parameters' gradients start
// at 1: backward adds.
TEST_P(AttentionModuleShapes, BackwardIsTheComplexStepDerivative) {
  Fixture f(GetParam());
  using Complex = std::complex<double>;
  AttentionInputs<Complex> inputs = f.inputs<Complex>();
  const auto dy = f.dy.view().values<float>();
  const auto gradient = [&](std::vector<Complex>& of) {
    constexpr double kStep = 1e-100;
    std::vector<double> result(of.size());
    for (std::size_t i = 0; i < of.size(); ++i) {
      of[i] += Complex(0, kStep);
      const std::vector<Complex> y = f.reference(inputs);
      of[i] = of[i].real();
      for (std::size_t j = 0; j < y.size(); ++j) result[i] += dy[j] * y[j].imag() / kStep;
    }
    return result;
  };

  for (Parameter* parameter : f.parameters) {
    for (float& value : parameter->gradient().values<float>()) value = 1.0F;
  }
  f.attention.forward(f.ctx, f.x.view());
  const TensorView dx = f.attention.backward(f.ctx, f.dy.view());

  const std::vector<double> expected_dx = gradient(inputs.x);
  expect_near(dx.values<float>(), expected_dx, f.tolerance(largest(expected_dx)), "dx");
  std::vector<Complex>* const weights[] = {&inputs.qkv, &inputs.out, &inputs.q_norm, &inputs.k_norm};
  for (std::size_t p = 0; p < f.parameters.size(); ++p) {
    std::vector<double> expected = gradient(*weights[p]);
    for (double& value : expected) value += 1.0;
    expect_near(f.parameters[p]->gradient().values<float>(), expected, f.tolerance(largest(expected)),
                f.parameters[p]->name());
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, AttentionModuleShapes,
    testing::Values(ModuleCase{{2, 5, 4, 2, 4}, true}, ModuleCase{{2, 5, 4, 2, 4}, false},
                    ModuleCase{{3, 1, 2, 2, 6}, true}, ModuleCase{{1, 9, 3, 1, 2}, true},
                    ModuleCase{{1, 4, 1, 1, 8}, false}, ModuleCase{{2, 5, 4, 2, 4}, true, true},
                    ModuleCase{{1, 3, 3, 1, 2}, true, true}, ModuleCase{{2, 5, 4, 2, 4, false}, true},
                    ModuleCase{{2, 3, 2, 1, 2, false, {0, 1, 0, 0, 0, 1}}, false}));

TEST(AttentionModule, NamesItsParameters) {
  Fixture f({{1, 1, 4, 2, 4}, true});
  ASSERT_EQ(f.parameters.size(), 4U);
  const struct {
    std::string name;
    Shape shape;
    bool decays;
  } expected[] = {{"attention.qkv", {32, kWidth}, true},
                  {"attention.out", {kWidth, 16}, true},
                  {"attention.q_norm", {4}, false},
                  {"attention.k_norm", {4}, false}};
  for (std::size_t p = 0; p < 4; ++p) {
    EXPECT_EQ(f.parameters[p]->name(), expected[p].name);
    EXPECT_EQ(f.parameters[p]->value().shape(), expected[p].shape);
    EXPECT_EQ(f.parameters[p]->decays, expected[p].decays);
    EXPECT_EQ(f.parameters[p]->sharding(), Sharding::kReplicated);
  }
  EXPECT_EQ(Fixture({{1, 1, 4, 2, 4}, false}).parameters.size(), 2U);
}

// Prefill and single steps, in pieces of any size, give what one forward over the whole sequence gives.
TEST(AttentionModule, CachedDecodingEqualsForward) {
  for (const auto& [qk_norm, over_width] : {std::pair(false, false), {true, false}, {true, true}}) {
    Fixture f({{1, 140, 4, 2, 4}, qk_norm, over_width});
    const std::vector<double> expected = f.reference(f.inputs<double>());
    const double tolerance = f.tolerance(largest(expected));
    KvCache cache = f.attention.make_cache(140);
    std::vector<float> y;
    for (const std::int64_t count : {3, 1, 0, 1, 60, 70, 1, 4}) {
      const std::int64_t first = cache.length();
      const TensorView part = f.attention.forward_cached(f.ctx, f.x.view().rows(first, first + count), cache);
      ASSERT_EQ(part.shape(), (Shape{count, kWidth}));
      y.insert(y.end(), part.values<float>().begin(), part.values<float>().end());
    }
    EXPECT_EQ(cache.length(), 140);
    expect_near(y, expected, tolerance, "y");
    cache.clear();
    const TensorView again = f.attention.forward_cached(f.ctx, f.x.view().rows(0, 1), cache);
    expect_near(again.values<float>(), {expected.begin(), expected.begin() + kWidth}, tolerance,
                "y after clear");
  }
}

TEST(AttentionModule, AFullCacheIsAnErrorThatLeavesItUnchanged) {
  Fixture f({{1, 8, 4, 2, 4}, false});
  KvCache cache = f.attention.make_cache(4);
  f.attention.forward_cached(f.ctx, f.x.view().rows(0, 3), cache);
  EXPECT_THROW(f.attention.forward_cached(f.ctx, f.x.view().rows(3, 5), cache), Error);
  EXPECT_EQ(cache.length(), 3);
  f.attention.forward_cached(f.ctx, f.x.view().rows(3, 4), cache);
  EXPECT_EQ(cache.length(), 4);
}

TEST(AttentionModule, OnlyACausalModelContinuesFromACache) {
  Fixture f({{1, 8, 4, 2, 4, false}, false});
  KvCache cache = f.attention.make_cache(8);
  EXPECT_THROW(f.attention.forward_cached(f.ctx, f.x.view().rows(0, 3), cache), Error);
}

TEST(AttentionModule, PositionsBeyondMaxSeqAreAnError) {
  Fixture f({{1, 257, 2, 1, 2}, false});
  EXPECT_THROW(f.attention.forward(f.ctx, f.x.view()), Error);
  KvCache cache = f.attention.make_cache(300);
  f.attention.forward_cached(f.ctx, f.x.view().rows(0, 256), cache);
  EXPECT_THROW(f.attention.forward_cached(f.ctx, f.x.view().rows(256, 257), cache), Error);
}

TEST(AttentionModule, EvaluationComputesTheSameAndKeepsNothing) {
  Fixture f({{2, 5, 4, 2, 4}, true});
  const TensorView trained = f.attention.forward(f.ctx, f.x.view());
  f.attention.backward(f.ctx, f.dy.view());
  f.ctx.training = false;
  const std::size_t before = f.arena.used_bytes();
  const TensorView evaluated = f.attention.forward(f.ctx, f.x.view());
  EXPECT_EQ(f.arena.used_bytes() - before, 256U) << "60 floats of y, in whole cache lines";
  EXPECT_TRUE(std::ranges::equal(trained.values<float>(), evaluated.values<float>()));
  EXPECT_THROW(f.attention.backward(f.ctx, f.dy.view()), Error);
}

TEST(AttentionModule, ZeroTokens) {
  for (const std::int64_t sequence_length : {0, 5}) {
    Fixture f({{0, sequence_length, 4, 2, 4}, true});
    EXPECT_EQ(f.attention.forward(f.ctx, f.x.view()).shape(), (Shape{0, kWidth}));
    EXPECT_EQ(f.attention.backward(f.ctx, f.dy.view()).shape(), (Shape{0, kWidth}));
    for (const Parameter* parameter : f.parameters) {
      for (const float value : parameter->gradient().values<float>()) EXPECT_EQ(value, 0.0F);
    }
  }
}

TEST(AttentionModule, SequencesDoNotSeeEachOther) {
  Fixture both({{2, 5, 4, 2, 4}, true});
  Fixture one({{1, 5, 4, 2, 4}, true});
  const TensorView second = both.attention.forward(both.ctx, both.x.view()).rows(5, 10);
  const TensorView alone = one.attention.forward(one.ctx, both.x.view().rows(5, 10));
  const double tolerance = both.tolerance(largest(both.reference(both.inputs<double>())));
  const auto values = alone.values<float>();
  expect_near(second.values<float>(), {values.begin(), values.end()}, tolerance, "second sequence");
}

TEST(AttentionModule, ASteadyStepTakesNoMemoryAndGivesTheSameBits) {
  Fixture f({{3, 70, 4, 2, 4}, true});
  std::vector<float> first_y;
  std::vector<float> first_dx;
  std::vector<std::vector<float>> first_gradients;
  std::int64_t allocations = 0;
  for (int step = 0; step < 3; ++step) {
    for (Parameter* parameter : f.parameters) parameter->zero_gradient();
    const TensorView y = f.attention.forward(f.ctx, f.x.view());
    const TensorView dx = f.attention.backward(f.ctx, f.dy.view());
    std::vector<std::vector<float>> gradients;
    for (const Parameter* parameter : f.parameters) {
      const auto values = parameter->gradient().values<float>();
      gradients.emplace_back(values.begin(), values.end());
    }
    if (step == 0) {
      first_y.assign(y.values<float>().begin(), y.values<float>().end());
      first_dx.assign(dx.values<float>().begin(), dx.values<float>().end());
      first_gradients = gradients;
      allocations = f.arena.system_allocations();
    }
    EXPECT_TRUE(std::ranges::equal(y.values<float>(), first_y)) << "step " << step;
    EXPECT_TRUE(std::ranges::equal(dx.values<float>(), first_dx)) << "step " << step;
    EXPECT_EQ(gradients, first_gradients) << "step " << step;
    EXPECT_EQ(f.arena.system_allocations(), allocations);
    f.arena.reset();
  }
}

TEST(AttentionModule, RefusesUnresolvedHeads) {
  config::Model model = model_of({{1, 1, 4, 2, 4}, false});
  model.set_kv_heads(0);
  EXPECT_THROW(Attention(model, "attention", 0.02, 0.02, 1), Error);
  model.set_kv_heads(3);
  EXPECT_THROW(Attention(model, "attention", 0.02, 0.02, 1), Error);
}

}  // namespace
}  // namespace conclave
