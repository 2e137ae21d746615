#include "layers/moe/router/hierarchical_router.h"

#include <gtest/gtest.h>

#include <numeric>

#include "tests/support/router_case.h"

namespace conclave {
namespace {

using test::reference_softmax_top_k;
using test::reference_top_k;
using test::RouterCase;
using test::RouterReference;

struct Sizes {
  std::int64_t experts, groups, top_groups, top_k;
};

config::Experiment experiment(const Sizes& sizes) {
  config::Experiment config = RouterCase::experiment(config::Moe::hierarchical, sizes.experts, sizes.top_k);
  config.mutable_moe()->set_expert_groups(sizes.groups);
  config.mutable_moe()->set_top_groups(sizes.top_groups);
  return config;
}

// The gates of one token: over groups, and within each group.
template <class T>
struct TokenGates {
  std::vector<T> group_logits;               // [G]
  std::vector<std::vector<T>> inner_logits;  // [G][M]

  TokenGates(const test::NamedTensors<T>& at, const config::Moe& moe, std::int64_t token)
      : group_logits(RouterCase::logits(at, ".group_weight", token)) {
    const std::vector<T> all = RouterCase::logits(at, ".weight", token);
    const auto width = static_cast<std::ptrdiff_t>(moe.experts() / moe.expert_groups());
    for (auto begin = all.begin(); begin != all.end(); begin += width)
      inner_logits.emplace_back(begin, begin + width);
  }
};

// A chosen expert and where it was chosen.
struct Place {
  std::size_t among_groups, within;  // choice number of the group, and in the group
  std::int32_t expert;
  double weight;
};
struct TokenChoice {
  std::vector<std::int32_t> groups;               // [H]
  std::vector<std::vector<std::int32_t>> places;  // [H][K / H]
  std::vector<Place> order;                       // [K], descending weight
};

TokenChoice choose(const TokenGates<double>& gates, const config::Moe& moe) {
  TokenChoice choice;
  choice.groups = reference_top_k(gates.group_logits, moe.top_groups());
  const auto a = reference_softmax_top_k(gates.group_logits, choice.groups, true).weights;
  for (std::size_t h = 0; h < choice.groups.size(); ++h) {
    const auto& inner = gates.inner_logits[static_cast<std::size_t>(choice.groups[h])];
    choice.places.push_back(reference_top_k(inner, moe.top_k() / moe.top_groups()));
    const auto b = reference_softmax_top_k(inner, choice.places[h], true).weights;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const auto first = static_cast<std::size_t>(choice.groups[h]) * inner.size();
      choice.order.push_back({h, j, static_cast<std::int32_t>(first) + choice.places[h][j], a[h] * b[j]});
    }
  }
  std::ranges::sort(choice.order, [](const Place& one, const Place& other) {
    return one.weight != other.weight ? one.weight > other.weight : one.expert < other.expert;
  });
  return choice;
}

void expect_matches_reference(RouterCase& c) {
  const config::Moe& moe = c.setting.moe();
  const auto at = c.values();
  std::vector<TokenChoice> choices;
  std::vector<std::vector<std::int32_t>> chosen;
  for (std::int64_t t = 0; t < c.tokens(); ++t) {
    choices.push_back(choose(TokenGates<double>(at, moe, t), moe));
    chosen.emplace_back();
    for (const Place& place : choices.back().order)
      chosen.back().push_back(c.context.is_padding(t) ? kNoExpert : place.expert);
  }
  c.expect_matches(chosen, [&]<class T>(const test::NamedTensors<T>& point) {
    RouterReference<T> result;
    std::vector<std::vector<T>> joint;
    std::vector<T> squares;
    for (std::size_t t = 0; t < choices.size(); ++t) {
      const TokenGates<T> gates(point, moe, static_cast<std::int64_t>(t));
      const auto outer = reference_softmax_top_k(gates.group_logits, choices[t].groups, true);
      squares.push_back(outer.log_sum_exp * outer.log_sum_exp);
      std::vector<std::vector<T>> b;
      for (std::size_t h = 0; h < choices[t].groups.size(); ++h) {
        const auto inner = reference_softmax_top_k(
            gates.inner_logits[static_cast<std::size_t>(choices[t].groups[h])], choices[t].places[h], true);
        b.push_back(inner.weights);
        squares.back() += inner.log_sum_exp * inner.log_sum_exp;
      }
      for (const Place& place : choices[t].order)
        result.weights.push_back(chosen[t][0] == kNoExpert
                                     ? T(0)
                                     : moe.routed_scale() * outer.weights[place.among_groups] *
                                           b[place.among_groups][place.within]);
      joint.emplace_back();
      for (std::size_t g = 0; g < gates.inner_logits.size(); ++g)
        for (const T& p : reference_softmax_top_k(gates.inner_logits[g], {}, false).probabilities)
          joint.back().push_back(outer.probabilities[g] * p);
    }
    result.terms = test::reference_sequence_terms(c, joint, chosen, squares);
    return result;
  });
  // The entropy is that of the joint distribution.
  double entropy = 0;
  for (std::size_t t = 0; t < choices.size(); ++t) {
    if (c.context.is_padding(static_cast<std::int64_t>(t))) continue;
    const TokenGates<double> gates(at, moe, static_cast<std::int64_t>(t));
    const auto outer = reference_softmax_top_k(gates.group_logits, {}, false).probabilities;
    for (std::size_t g = 0; g < outer.size(); ++g)
      for (const double p : reference_softmax_top_k(gates.inner_logits[g], {}, false).probabilities)
        entropy -= outer[g] * p * std::log(outer[g] * p);
  }
  EXPECT_NEAR(c.statistics.router_entropy_sum, entropy, 1e-5 * entropy + 1e-12);
}

TEST(HierarchicalRouterTest, MatchesReference) {
  for (const Sizes& sizes : {Sizes{6, 3, 2, 4},
                             {6, 3, 1, 1},
                             {8, 2, 1, 3},
                             {5, 5, 2, 2},
                             {4, 1, 1, 2},
                             {6, 2, 2, 6},
                             {1, 1, 1, 1}}) {
    SCOPED_TRACE(
        fmt::format("E {} G {} H {} K {}", sizes.experts, sizes.groups, sizes.top_groups, sizes.top_k));
    config::Experiment config = experiment(sizes);
    config.mutable_moe()->set_routed_scale(1.5);
    RouterCase c(config, 2);
    expect_matches_reference(c);
  }
}

TEST(HierarchicalRouterTest, PaddingTakesNoExpert) {
  RouterCase c(experiment({6, 3, 2, 4}), 3);
  c.pad(2);
  expect_matches_reference(c);
}

TEST(HierarchicalRouterTest, WorksWithoutALoadBalanceTerm) {
  config::Experiment config = experiment({6, 3, 2, 4});
  config.mutable_moe()->set_balance_loss(0);
  RouterCase c(config, 2);
  expect_matches_reference(c);
}

TEST(HierarchicalRouterTest, WeightsSumToTheScale) {
  RouterCase c(experiment({8, 4, 2, 4}), 3);
  c.forward();
  for (std::int64_t t = 0; t < c.tokens(); ++t) {
    const auto weights = c.routing.weights.rows(t, t + 1).values<float>();
    EXPECT_TRUE(std::ranges::is_sorted(weights, std::greater<>()));
    EXPECT_NEAR(std::accumulate(weights.begin(), weights.end(), 0.0), 1, 1e-6);
  }
}

TEST(HierarchicalRouterTest, TiesGoToTheLowerIds) {
  RouterCase c(experiment({6, 3, 2, 4}), 1);
  for (Parameter* parameter : c.parameters) parameter->initialise_constant(0);
  c.forward();
  for (std::size_t i = 0; i < static_cast<std::size_t>(4 * c.tokens()); ++i) {
    EXPECT_EQ(c.routing.experts.values<std::int32_t>()[i], i % 4);
    EXPECT_EQ(c.routing.weights.values<float>()[i], 0.25F);
  }
}

TEST(HierarchicalRouterTest, EvaluationTakesNoLossTerms) {
  RouterCase c(experiment({6, 3, 2, 4}), 1);
  c.context.training = false;
  c.context.grid = nullptr;
  c.forward();
  EXPECT_GT(c.statistics.router_entropy_sum, 0);
  EXPECT_EQ(c.statistics.balance_loss_raw, 0);
}

TEST(HierarchicalRouterTest, TakesZeroTokens) {
  for (const auto scope : {config::Moe::batch, config::Moe::sequence, config::Moe::global_batch}) {
    config::Experiment config = experiment({6, 3, 2, 4});
    config.mutable_moe()->set_balance_scope(scope);
    RouterCase c(config, 0);
    EXPECT_EQ(c.forward().experts.shape(), (Shape{0, 4}));
    EXPECT_EQ(c.backward().shape(), (Shape{0, RouterCase::D}));
  }
}

}  // namespace
}  // namespace conclave
