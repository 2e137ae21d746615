#include "layers/moe/dispatch_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <set>

#include "layers/tensor/philox.h"

namespace conclave {
namespace {

struct Choices {
  std::int64_t tokens = 0;
  std::int64_t top_k = 0;
  std::vector<std::int32_t> experts;  // [T, K]
  std::vector<float> weights;         // [T, K]

  Routing routing() const {
    return {tensor_view(std::span(experts), {tokens, top_k}),
            tensor_view(std::span(weights), {tokens, top_k})};
  }
};

// K different experts a token. Skew 0 is uniform; 1 sends the first choice of every token to expert 0.
// Weights take few values, so that ties are common.
Choices random_choices(std::uint64_t seed, std::int64_t tokens, std::int64_t top_k, std::int64_t experts,
                       double skew) {
  const RandomStream random(seed, "choices");
  std::uint64_t index = 0;
  Choices choices{tokens, top_k, {}, {}};
  for (std::int64_t t = 0; t < tokens; ++t) {
    std::vector<std::int32_t> order(static_cast<std::size_t>(experts));
    std::iota(order.begin(), order.end(), 0);
    const std::size_t fixed = random.uniform(index++) < skew ? 1 : 0;
    for (std::size_t i = order.size(); i-- > fixed + 1;)
      std::swap(order[i], order[fixed + random.bits(index++) % (i + 1 - fixed)]);
    choices.experts.insert(choices.experts.end(), order.begin(), order.begin() + top_k);
    for (std::int64_t k = 0; k < top_k; ++k)
      choices.weights.push_back(static_cast<float>(random.bits(index++) % 8) / 8.0F);
  }
  return choices;
}

std::vector<std::int32_t> tokens_in_order(const Choices& choices) {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(choices.tokens));
  std::iota(tokens.begin(), tokens.end(), 0);
  return tokens;
}

// One bucket for each weight that random_choices draws, the largest first.
std::vector<std::int32_t> tokens_by_best_weight(const Choices& choices) {
  std::vector<std::int32_t> tokens;
  for (int eighths = 7; eighths >= 0; --eighths)
    for (std::int32_t t = 0; t < choices.tokens; ++t) {
      const auto first = choices.weights.begin() + t * choices.top_k;
      if (*std::max_element(first, first + choices.top_k) == static_cast<float>(eighths) / 8.0F)
        tokens.push_back(t);
    }
  return tokens;
}

// The rule in words: line the choices of one expert up, keep the first C, put those in token order.
std::vector<std::vector<std::int32_t>> kept_by_expert(const Choices& choices, std::int64_t experts,
                                                      std::int64_t capacity, config::Moe::Drop drop) {
  std::vector<std::vector<std::int32_t>> kept(static_cast<std::size_t>(experts));
  for (std::int32_t expert = 0; expert < experts; ++expert) {
    std::vector<std::int32_t>& line = kept[static_cast<std::size_t>(expert)];
    for (std::int32_t k = 0; k < choices.top_k; ++k)
      for (const std::int32_t t : drop == config::Moe::batch_prioritized ? tokens_by_best_weight(choices)
                                                                         : tokens_in_order(choices)) {
        const auto choice = static_cast<std::int32_t>(t * choices.top_k + k);
        if (choices.experts[static_cast<std::size_t>(choice)] == expert) line.push_back(choice);
      }
    if (drop == config::Moe::probability) {
      std::ranges::sort(line);
      std::ranges::stable_sort(line, [&](std::int32_t a, std::int32_t b) {
        return choices.weights[static_cast<std::size_t>(a)] > choices.weights[static_cast<std::size_t>(b)];
      });
    }
    if (static_cast<std::int64_t>(line.size()) > capacity) line.resize(static_cast<std::size_t>(capacity));
    std::ranges::sort(line);
  }
  return kept;
}

void expect_plan_follows_rule(const Choices& choices, std::int64_t experts, std::int64_t capacity,
                              config::Moe::Drop drop, DispatchPlan& plan) {
  SCOPED_TRACE(fmt::format("T {} K {} E {} C {} drop {}", choices.tokens, choices.top_k, experts, capacity,
                           static_cast<int>(drop)));
  make_dispatch_plan(choices.routing(), experts, capacity, drop, plan);
  EXPECT_EQ(plan.tokens, choices.tokens);
  EXPECT_EQ(plan.top_k, choices.top_k);
  EXPECT_EQ(plan.experts, experts);

  const auto kept = kept_by_expert(choices, experts, capacity, drop);
  std::vector<std::int64_t> offsets{0};
  std::vector<std::int32_t> choice_of_row;
  for (const auto& line : kept) {
    choice_of_row.insert(choice_of_row.end(), line.begin(), line.end());
    offsets.push_back(static_cast<std::int64_t>(choice_of_row.size()));
  }
  EXPECT_EQ(plan.expert_offsets, offsets);
  EXPECT_EQ(plan.choice_of_row, choice_of_row);

  // Conservation: every choice is dropped or has exactly one row.
  ASSERT_EQ(plan.row_of_choice.size(), choices.experts.size());
  std::vector<std::int64_t> chosen(static_cast<std::size_t>(experts), 0);
  std::vector<std::int64_t> dropped(static_cast<std::size_t>(choices.top_k), 0);
  std::set<std::int32_t> rows;
  for (std::size_t choice = 0; choice < choices.experts.size(); ++choice) {
    ++chosen[static_cast<std::size_t>(choices.experts[choice])];
    const std::int32_t row = plan.row_of_choice[choice];
    if (row == DispatchPlan::kDropped) {
      ++dropped[choice % static_cast<std::size_t>(choices.top_k)];
      continue;
    }
    EXPECT_TRUE(rows.insert(row).second) << "row " << row << " twice";
    ASSERT_TRUE(row >= 0 && row < plan.rows());
    EXPECT_EQ(plan.choice_of_row[static_cast<std::size_t>(row)], static_cast<std::int32_t>(choice));
  }
  EXPECT_EQ(static_cast<std::int64_t>(rows.size()), plan.rows());
  EXPECT_EQ(plan.chosen_per_expert, chosen);
  EXPECT_EQ(plan.dropped_per_choice, dropped);
  EXPECT_EQ(std::accumulate(dropped.begin(), dropped.end(), plan.rows()), choices.tokens * choices.top_k);
}

// One plan is reused for all, as a layer does: nothing of the last micro-batch may shine through.
TEST(DispatchPlan, FollowsTheRule) {
  DispatchPlan plan;
  std::uint64_t seed = 0;
  for (const std::int64_t tokens : {0, 1, 7, 64, 129})
    for (const std::int64_t experts : {1, 2, 5, 16})
      for (const std::int64_t top_k : {1, 2, 5, 16}) {
        if (top_k > experts) continue;
        for (const double skew : {0.0, 0.5, 1.0})
          for (const std::int64_t capacity : {std::int64_t{0}, std::int64_t{1}, std::int64_t{3},
                                              expert_capacity(1.0, tokens, top_k, experts), tokens * top_k})
            for (const auto drop :
                 {config::Moe::position, config::Moe::probability, config::Moe::batch_prioritized})
              expect_plan_follows_rule(random_choices(++seed, tokens, top_k, experts, skew), experts,
                                       capacity, drop, plan);
      }
}

TEST(DispatchPlan, PositionKeepsFirstChoicesBeforeSecond) {
  // Expert 0 is the second choice of token 0 and the first choice of tokens 1 and 2.
  const Choices choices{3, 2, {1, 0, 0, 1, 0, 2}, {0.6F, 0.4F, 0.9F, 0.1F, 0.5F, 0.5F}};
  DispatchPlan plan;
  make_dispatch_plan(choices.routing(), 3, 2, config::Moe::position, plan);
  EXPECT_EQ(plan.row_of_choice, (std::vector<std::int32_t>{2, DispatchPlan::kDropped, 0, 3, 1, 4}));
  EXPECT_EQ(plan.dropped_per_choice, (std::vector<std::int64_t>{0, 1}));
}

TEST(DispatchPlan, BatchPrioritizedOrdersTokensByTheirBestWeight) {
  // Token 2 is the surest, then 0; of the tie of 1 and 3, 1 comes first. All first choices are expert 0: it
  // takes 2 and 0. The second choices go to expert 1, which takes 2 and 0 too, though 3 gives it more weight.
  const Choices choices{4, 2, {0, 1, 0, 1, 0, 1, 0, 1}, {0.7F, 0.1F, 0.6F, 0.2F, 0.9F, 0.05F, 0.6F, 0.4F}};
  DispatchPlan plan;
  make_dispatch_plan(choices.routing(), 2, 2, config::Moe::batch_prioritized, plan);
  EXPECT_EQ(plan.choice_of_row, (std::vector<std::int32_t>{0, 4, 1, 5}));
  EXPECT_EQ(plan.dropped_per_choice, (std::vector<std::int64_t>{2, 2}));
  make_dispatch_plan(choices.routing(), 2, 3, config::Moe::batch_prioritized, plan);
  EXPECT_EQ(plan.choice_of_row, (std::vector<std::int32_t>{0, 2, 4, 1, 3, 5}));
}

TEST(DispatchPlan, EmptyPlacesAreNeitherCountedNorSent) {
  const Choices choices{3, 2, {1, kNoExpert, kNoExpert, kNoExpert, 1, 0}, {0.5F, 0, 0, 0, 0.5F, 0.5F}};
  DispatchPlan plan;
  for (const auto drop : {config::Moe::position, config::Moe::probability, config::Moe::batch_prioritized}) {
    make_dispatch_plan(choices.routing(), 2, 1, drop, plan);
    EXPECT_EQ(plan.chosen_per_expert, (std::vector<std::int64_t>{1, 2}));
    EXPECT_EQ(plan.choice_of_row, (std::vector<std::int32_t>{5, 0}));
    EXPECT_EQ(plan.chosen_per_choice, (std::vector<std::int64_t>{2, 1}));
    EXPECT_EQ(plan.dropped_per_choice, (std::vector<std::int64_t>{1, 0}));
    EXPECT_EQ(plan.kept_per_expert, (std::vector<std::int64_t>{1, 1}));
  }
}

TEST(DispatchPlan, ProbabilityKeepsLargestWeightsAndTheLowerTokenOfATie) {
  const Choices choices{4, 1, {0, 0, 0, 0}, {0.25F, 0.5F, 0.25F, 0.75F}};
  DispatchPlan plan;
  make_dispatch_plan(choices.routing(), 2, 3, config::Moe::probability, plan);
  EXPECT_EQ(plan.choice_of_row, (std::vector<std::int32_t>{0, 1, 3}));
}

// A diverged router must reach the trainer as a non-finite loss, not as a crash here.
TEST(DispatchPlan, NanWeightsComeLast) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const Choices choices{4, 1, {0, 0, 0, 0}, {nan, 0.5F, nan, 0.25F}};
  DispatchPlan plan;
  make_dispatch_plan(choices.routing(), 1, 3, config::Moe::probability, plan);
  EXPECT_EQ(plan.choice_of_row, (std::vector<std::int32_t>{0, 1, 3}));
}

TEST(DispatchPlan, FillsUpToCapacity) {
  DispatchPlan plan;
  DispatchPlan full;
  std::uint64_t seed = 1000;
  for (const std::int64_t tokens : {0, 1, 7, 40})
    for (const std::int64_t experts : {1, 3, 8})
      for (const std::int64_t capacity : {std::int64_t{1}, std::int64_t{4}, tokens + 2}) {
        const Choices choices = random_choices(++seed, tokens, 1, experts, 0.3);
        make_dispatch_plan(choices.routing(), experts, capacity, config::Moe::position, plan);
        full = plan;
        fill_up_to_capacity(capacity, full);
        ASSERT_EQ(full.rows(), experts * capacity);
        std::int64_t rows = 0;
        for (std::int64_t e = 0; e < experts; ++e) {
          const auto at = static_cast<std::size_t>(e);
          EXPECT_EQ(full.expert_offsets[at], e * capacity);
          const std::int64_t own = plan.expert_offsets[at + 1] - plan.expert_offsets[at];
          EXPECT_EQ(full.kept_per_expert[at], own);
          for (std::int64_t i = 0; i < capacity; ++i) {
            const std::int32_t choice = full.choice_of_row[static_cast<std::size_t>(e * capacity + i)];
            if (i >= own) {
              EXPECT_EQ(choice, DispatchPlan::kNoChoice);
              continue;
            }
            ++rows;
            EXPECT_EQ(choice, plan.choice_of_row[static_cast<std::size_t>(plan.expert_offsets[at] + i)]);
            EXPECT_EQ(full.row_of_choice[static_cast<std::size_t>(choice)], e * capacity + i);
          }
        }
        EXPECT_EQ(full.expert_offsets.back(), experts * capacity);
        EXPECT_EQ(rows, plan.rows());
        EXPECT_EQ(full.dropped_per_choice, plan.dropped_per_choice);
      }
  make_dispatch_plan(random_choices(1, 9, 1, 2, 1.0).routing(), 2, 9, config::Moe::position, plan);
  EXPECT_THROW(fill_up_to_capacity(3, plan), Error);
}

TEST(DispatchPlan, RefusesWhatCannotBeRouted) {
  DispatchPlan plan;
  const Choices too_large{1, 1, {4}, {1.0F}};
  EXPECT_THROW(make_dispatch_plan(too_large.routing(), 4, 1, config::Moe::position, plan), Error);
  const Choices negative{1, 1, {-2}, {1.0F}};
  EXPECT_THROW(make_dispatch_plan(negative.routing(), 4, 1, config::Moe::position, plan), Error);
  const std::int32_t one = 0;
  const Routing huge{{&one, {std::int64_t{1} << 31, 1}, DType::kInt32},
                     {&one, {std::int64_t{1} << 31, 1}, DType::kFloat32}};
  EXPECT_THROW(make_dispatch_plan(huge, 4, 1, config::Moe::position, plan), Error);
}

TEST(ExpertCapacity, IsExactForWholeNumbers) {
  EXPECT_EQ(expert_capacity(1.25, 1024, 2, 16), 160);
  EXPECT_EQ(expert_capacity(1.25, 1025, 2, 16), 161);  // 160.16
  EXPECT_EQ(expert_capacity(1.0, 7, 2, 3), 5);         // 4.67
  EXPECT_EQ(expert_capacity(1.0, 0, 2, 16), 0);
  EXPECT_EQ(expert_capacity(0.0, 33, 3, 8), 99);  // dropless
  EXPECT_EQ(expert_capacity(0.001, 1, 1, 64), 1);
  // Tenths have no finite binary form; n / 10 * (10 m) / E is whole all the same.
  for (std::int64_t tenths = 1; tenths <= 80; ++tenths)
    for (const std::int64_t rows : {1, 3, 7, 1000, 99991})
      for (const std::int64_t experts : {1, 3, 16, 60}) {
        EXPECT_EQ(expert_capacity(static_cast<double>(tenths) / 10.0, 10 * rows * experts, 2, experts),
                  2 * tenths * rows);
        EXPECT_EQ(expert_capacity(static_cast<double>(tenths) / 10.0, 10 * rows * experts + 1, 1, experts),
                  tenths * rows + (tenths + 10 * experts - 1) / (10 * experts));
      }
}

}  // namespace
}  // namespace conclave
