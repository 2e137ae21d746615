#include "optim/make_optimizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "comm/self/self_communicator.h"
#include "layers/tensor/philox.h"
#include "tests/support/operator_test.h"
#include "tests/support/reference/adamw.h"

namespace conclave {
namespace {

constexpr double kU = 0.5 * std::numeric_limits<float>::epsilon();

config::Optim options() {
  config::Optim options;
  options.add_betas(0.9);
  options.add_betas(0.95);
  options.set_eps(1e-8);
  options.set_weight_decay(0.1);
  return options;
}
// The optimizer of a world of one, with the ownership that it needs.
class OwnedAdamW {
 public:
  explicit OwnedAdamW(const std::vector<Parameter*>& parameters, const config::Optim& setting = options())
      : ownership_(parameters, grid_, /*sharded=*/false), optimizer_(make_optimizer(setting, ownership_)) {}
  Optimizer* operator->() { return optimizer_.get(); }

 private:
  std::unique_ptr<Communicator> world_ = make_self_communicator();
  ProcessGrid grid_{*world_, 1};
  Ownership ownership_;
  std::unique_ptr<Optimizer> optimizer_;
};

constexpr test::AdamWOptions kReferenceOptions{0.9, 0.95, 1e-8, 0.1};

// The gradient of element i in update t: a fixed part, so that moments build up, and noise of the same size.
float gradient_at(std::int64_t t, std::int64_t i) {
  const RandomStream random(3, "gradient", static_cast<std::uint64_t>(t));
  return 0.01F * (random.normal(static_cast<std::uint64_t>(i)) + static_cast<float>(i % 3 - 1));
}

void set_gradient(const Parameter& parameter, std::int64_t t, std::int64_t first = 0) {
  const auto gradient = parameter.gradient().values<float>();
  for (std::size_t i = 0; i < gradient.size(); ++i) {
    gradient[i] = gradient_at(t, first + static_cast<std::int64_t>(i));
  }
}

TEST(AdamW, FollowsThePaper) {
  constexpr std::int64_t kElements = 1001;
  constexpr int kUpdates = 25;
  constexpr double kGradientScale = 0.5;
  Parameter decaying("decaying", Shape{kElements});
  Parameter plain("plain", Shape{kElements});
  plain.decays = false;
  for (Parameter* parameter : {&decaying, &plain}) {
    parameter->initialise_normal(1, 0.02);
    const auto values = parameter->value().values<float>();
    std::vector<test::AdamWElement<double>> wanted(values.size());
    for (std::size_t i = 0; i < values.size(); ++i) wanted[i].value = static_cast<double>(values[i]);
    std::vector<double> bound(values.size(), 0.0);
    std::vector<double> m_magnitude(values.size(), 0.0);

    test::AdamWOptions reference = kReferenceOptions;
    if (!parameter->decays) reference.weight_decay = 0.0;
    OwnedAdamW optimizer({parameter});
    for (int t = 1; t <= kUpdates; ++t) {
      const double learning_rate = 1e-2 / t;
      set_gradient(*parameter, t);
      optimizer->update(learning_rate, kGradientScale);
      for (std::size_t i = 0; i < values.size(); ++i) {
        test::AdamWElement<double>& element = wanted[i];
        const double gradient =
            kGradientScale * static_cast<double>(gradient_at(t, static_cast<std::int64_t>(i)));
        element.update(reference, learning_rate, gradient);

        // An update passes each gradient through at most 2 roundings of the moments (and 3 of its own at the
        // start: scale, coefficient, square): relative to the sum of magnitudes for m, to v itself for v.
        m_magnitude[i] = 0.9 * m_magnitude[i] + 0.1 * std::abs(gradient);
        const double m_error = (3 * t + 3) * kU * m_magnitude[i];
        const double v_relative_error = (3 * t + 5) * kU;
        const double denominator = std::sqrt(element.v / (1.0 - std::pow(0.95, t))) + 1e-8;
        const double bias = 1.0 - std::pow(0.9, t);
        const double ratio = element.m / bias / denominator;
        // Half of v's error survives the root; 8 more: root, its scale, eps, step size, product, quotient,
        // decay factor, decay product. Then the final difference rounds once.
        const double step_error =
            m_error / bias / denominator + std::abs(ratio) * (0.5 * v_relative_error + 8 * kU);
        bound[i] += learning_rate * step_error + 3 * kU * std::abs(element.value);
      }
    }
    for (std::size_t i = 0; i < values.size(); ++i) {
      ASSERT_NEAR(static_cast<double>(values[i]), wanted[i].value, bound[i]) << parameter->name() << " " << i;
      ASSERT_LT(bound[i], 1e-4 * 0.02);  // the bound is tight enough to see a wrong formula
    }
  }
}

TEST(AdamW, TheFirstUpdateMovesEveryElementByTheLearningRateAgainstItsGradient) {
  Parameter parameter("p", Shape{3});
  parameter.decays = false;
  parameter.gradient().data<float>()[0] = 5.0F;
  parameter.gradient().data<float>()[1] = -1e-3F;
  OwnedAdamW optimizer({&parameter});
  optimizer->update(0.01, 1.0);
  // eps / |g| = 1e-5 is the largest deviation.
  EXPECT_NEAR(parameter.value().data<float>()[0], -0.01F, 0.01 * 2e-5);
  EXPECT_NEAR(parameter.value().data<float>()[1], 0.01F, 0.01 * 2e-5);
  EXPECT_EQ(parameter.value().data<float>()[2], 0.0F);
  EXPECT_EQ(optimizer->updates(), 1);
}

TEST(AdamW, WithoutGradientOnlyTheDecayIsLeft) {
  Parameter decaying("decaying", Shape{1});
  Parameter plain("plain", Shape{1});
  plain.decays = false;
  decaying.initialise_constant(2.0F);
  plain.initialise_constant(2.0F);
  OwnedAdamW optimizer({&decaying, &plain});
  optimizer->update(0.5, 1.0);
  EXPECT_FLOAT_EQ(decaying.value().data<float>()[0], 2.0F * (1.0F - 0.5F * 0.1F));
  EXPECT_EQ(plain.value().data<float>()[0], 2.0F);
}

TEST(AdamW, ExpertsHaveARateAndADecayOfTheirOwn) {
  config::Optim setting = options();
  setting.set_expert_lr_multiplier(0.25);
  setting.set_expert_weight_decay(0.5);
  Parameter dense("dense", Shape{2, 3});
  Parameter experts("experts", Shape{4, 3}, Range{1, 3});
  dense.initialise_constant(2.0F);
  experts.initialise_constant(2.0F);
  OwnedAdamW optimizer({&dense, &experts}, setting);
  optimizer->update(0.4, 1.0);  // no gradient: decay alone
  EXPECT_FLOAT_EQ(dense.value().data<float>()[5], 2.0F * (1.0F - 0.4F * 0.1F));
  EXPECT_FLOAT_EQ(experts.value().data<float>()[5], 2.0F * (1.0F - 0.4F * 0.25F * 0.5F));

  setting.clear_expert_weight_decay();  // auto
  Parameter like_dense("experts", Shape{4, 3}, Range{1, 3});
  like_dense.initialise_constant(2.0F);
  std::ranges::fill(like_dense.gradient().values<float>(), 1.0F);
  OwnedAdamW({&like_dense}, setting)->update(0.4, 1.0);  // the first step of Adam is lr long
  EXPECT_NEAR(like_dense.value().data<float>()[0], 2.0F * (1.0F - 0.1F * 0.1F) - 0.1F, 1e-6F);
}

TEST(AdamW, FrozenRowsKeepTheirValuesAndMoments) {
  Parameter experts("experts", Shape{6, 2}, Range{1, 5});
  experts.initialise_constant(2.0F);
  std::ranges::fill(experts.gradient().values<float>(), 1.0F);
  OwnedAdamW unfrozen({&experts});
  unfrozen->update(0.1, 1.0);

  experts.freeze_rows({2, 4});  // local rows 1 and 2
  OwnedAdamW optimizer({&experts});
  const auto copy = [](ConstTensorView view) { return test::copy_of(view); };
  for (std::size_t moment = 0; moment < 2; ++moment) {
    std::ranges::copy(copy(unfrozen->state()[moment].local),
                      optimizer->state()[moment].local.values<float>().begin());
  }
  const auto before = copy(experts.value());
  const auto moments_before = copy(optimizer->state()[0].local);
  optimizer->update(0.1, 1.0);
  const auto after = copy(experts.value());
  const auto moments_after = copy(optimizer->state()[0].local);
  for (std::size_t i = 0; i < before.size(); ++i) {
    const bool is_frozen = i / 2 == 1 || i / 2 == 2;
    EXPECT_EQ(after[i] == before[i], is_frozen) << i;
    EXPECT_EQ(moments_after[i] == moments_before[i], is_frozen) << i;
  }
}

// An expert's elements lie elsewhere in memory on another number of ranks, and threads cut them elsewhere.
TEST(AdamW, DoesNotDependOnThePlaceOrTheThreads) {
  constexpr std::int64_t kElements = 100'003;
  constexpr std::int64_t kFirst = 33'331;  // of the second half
  Parameter whole("p", Shape{kElements});
  Parameter front("p", Shape{kFirst});
  Parameter back("p", Shape{kElements - kFirst});
  whole.initialise_normal(1, 0.02);
  const auto values = whole.value().values<float>();
  std::ranges::copy(values.first(kFirst), front.mutable_value().data<float>());
  std::ranges::copy(values.subspan(kFirst), back.mutable_value().data<float>());

  OwnedAdamW one({&whole});
  OwnedAdamW two({&front, &back});
  for (int t = 1; t <= 3; ++t) {
    set_gradient(whole, t);
    set_gradient(front, t);
    set_gradient(back, t, kFirst);
    {
      const test::ThreadCount scope(3);
      one->update(1e-2, 0.7);
    }
    const test::ThreadCount scope(1);
    two->update(1e-2, 0.7);
  }
  EXPECT_TRUE(std::ranges::equal(front.value().values<float>(), values.first(kFirst)));
  EXPECT_TRUE(std::ranges::equal(back.value().values<float>(), values.subspan(kFirst)));
}

TEST(AdamW, ContinuesBitForBitFromItsState) {
  Parameter original("p", Shape{7, 11});
  Parameter resumed("p", Shape{7, 11});
  original.initialise_normal(1, 0.02);
  OwnedAdamW first({&original});
  OwnedAdamW second({&resumed});
  const auto step = [](OwnedAdamW& optimizer, const Parameter& parameter, int t) {
    set_gradient(parameter, t);
    optimizer->update(1e-3 * t, 1.0);
  };
  for (int t = 1; t <= 5; ++t) step(first, original, t);

  std::ranges::copy(original.value().values<float>(), resumed.mutable_value().data<float>());
  const auto from = first->state();
  const auto to = second->state();
  for (std::size_t i = 0; i < from.size(); ++i) {
    std::ranges::copy(from[i].local.values<float>(), to[i].local.data<float>());
  }
  second->set_updates(first->updates());
  for (int t = 6; t <= 10; ++t) {
    step(first, original, t);
    step(second, resumed, t);
  }
  EXPECT_TRUE(std::ranges::equal(original.value().values<float>(), resumed.value().values<float>()));
}

TEST(AdamW, StateIsNamedLikeItsParameterAndLiesInMatricesOfItsRows) {
  Parameter dense("dense", Shape{2, 3});
  Parameter experts("experts", Shape{8, 4, 5}, Range{2, 5});
  Parameter none("none", Shape{1, 4}, Range{1, 1});  // this rank holds no expert of it
  OwnedAdamW optimizer({&dense, &experts, &none});
  const auto state = optimizer->state();
  std::vector<std::string> names;
  for (const ShardedTensor& tensor : state) names.push_back(tensor.name);
  EXPECT_EQ(names, (std::vector<std::string>{"adamw.m/dense", "adamw.v/dense", "adamw.m/experts",
                                             "adamw.v/experts", "adamw.m/none", "adamw.v/none"}));
  EXPECT_EQ(state[0].sharding, Sharding::kReplicated);
  EXPECT_EQ(state[0].local.shape(), (Shape{2, 3}));
  EXPECT_EQ(state[3].sharding, Sharding::kExpert);
  EXPECT_EQ(state[3].global_shape, (Shape{8 * 4, 5}));
  EXPECT_EQ(state[3].local_rows, (Range{2 * 4, 5 * 4}));
  EXPECT_EQ(state[3].local.shape(), (Shape{3 * 4, 5}));
  optimizer->update(1e-3, 1.0);
}

}  // namespace
}  // namespace conclave
