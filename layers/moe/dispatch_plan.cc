#include "layers/moe/dispatch_plan.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <span>

#include "comm/base/error.h"

namespace conclave {
namespace {

constexpr std::int32_t kKept = 0;  // in row_of_choice, until the rows are numbered

void count_choices(std::span<const std::int32_t> chosen, std::int64_t experts,
                   std::vector<std::int64_t>& chosen_per_expert) {
  chosen_per_expert.assign(static_cast<std::size_t>(experts), 0);
  for (const std::int32_t expert : chosen) {
    if (expert == kNoExpert) continue;
    CONCLAVE_CHECK(expert >= 0 && expert < experts, "a router chose expert {}, but there are {}", expert,
                   experts);
    ++chosen_per_expert[static_cast<std::size_t>(expert)];
  }
}

// Numbers the kept choices by expert, then by token: a counting sort.
void number_rows(std::span<const std::int32_t> chosen, DispatchPlan& plan) {
  std::vector<std::int64_t>& offsets = plan.expert_offsets;
  offsets.assign(static_cast<std::size_t>(plan.experts) + 1, 0);
  for (std::size_t choice = 0; choice < chosen.size(); ++choice) {
    if (plan.row_of_choice[choice] != DispatchPlan::kDropped)
      ++offsets[static_cast<std::size_t>(chosen[choice])];
  }
  std::partial_sum(offsets.begin(), offsets.end(), offsets.begin());

  // offsets[e] is the end of expert e now; dealing its rows out backwards leaves its begin there.
  plan.choice_of_row.reserve(chosen.size());  // once for all loads
  plan.choice_of_row.resize(static_cast<std::size_t>(offsets.back()));
  for (std::size_t choice = chosen.size(); choice-- > 0;) {
    if (plan.row_of_choice[choice] == DispatchPlan::kDropped) continue;
    const std::int64_t row = --offsets[static_cast<std::size_t>(chosen[choice])];
    plan.row_of_choice[choice] = static_cast<std::int32_t>(row);
    plan.choice_of_row[static_cast<std::size_t>(row)] = static_cast<std::int32_t>(choice);
  }
}

// NaN would break an order of weights; the trainer sees it in the loss.
float comparable(float weight) {
  return std::isnan(weight) ? -std::numeric_limits<float>::infinity() : weight;
}

// The tokens in descending order of their best weight, written into the memory of the rows, which
// number_rows fills later.
std::span<const std::int32_t> order_by_best_weight(std::span<const float> weights, DispatchPlan& plan) {
  const auto best = [&](std::int32_t token) {
    float largest = -std::numeric_limits<float>::infinity();
    for (std::int64_t k = 0; k < plan.top_k; ++k)
      largest = std::max(largest, comparable(weights[static_cast<std::size_t>(token * plan.top_k + k)]));
    return largest;
  };
  std::vector<std::int32_t>& tokens = plan.choice_of_row;
  tokens.resize(static_cast<std::size_t>(plan.tokens));
  std::iota(tokens.begin(), tokens.end(), 0);
  std::ranges::sort(tokens, [&](std::int32_t a, std::int32_t b) {
    const float best_of_a = best(a);
    const float best_of_b = best(b);
    return best_of_a != best_of_b ? best_of_a > best_of_b : a < b;
  });
  return tokens;
}

// An expert takes all first choices before any second; among equal choices the tokens in the order of
// `token_at` (place -> token).
template <class TokenAt>
void drop_latest(std::span<const std::int32_t> chosen, std::int64_t capacity, TokenAt token_at,
                 DispatchPlan& plan) {
  std::vector<std::int64_t>& taken = plan.expert_offsets;
  taken.assign(static_cast<std::size_t>(plan.experts) + 1, 0);
  for (std::int64_t k = 0; k < plan.top_k; ++k) {
    for (std::int64_t place = 0; place < plan.tokens; ++place) {
      const auto choice = static_cast<std::size_t>(token_at(place) * plan.top_k + k);
      if (chosen[choice] == kNoExpert) continue;
      if (taken[static_cast<std::size_t>(chosen[choice])]++ >= capacity)
        plan.row_of_choice[choice] = DispatchPlan::kDropped;
    }
  }
}

void drop_least_probable(std::span<const std::int32_t> chosen, std::span<const float> weights,
                         std::int64_t capacity, DispatchPlan& plan) {
  const auto weight_of = [&](std::int32_t choice) {
    return comparable(weights[static_cast<std::size_t>(choice)]);
  };
  const auto more_probable = [&](std::int32_t a, std::int32_t b) {
    return weight_of(a) != weight_of(b) ? weight_of(a) > weight_of(b) : a < b;
  };
  number_rows(chosen, plan);
  for (std::size_t expert = 0; expert < plan.chosen_per_expert.size(); ++expert) {
    if (plan.chosen_per_expert[expert] <= capacity) continue;
    const auto begin = plan.choice_of_row.begin() + plan.expert_offsets[expert];
    const auto end = plan.choice_of_row.begin() + plan.expert_offsets[expert + 1];
    std::nth_element(begin, begin + capacity, end, more_probable);
    for (auto choice = begin + capacity; choice != end; ++choice)
      plan.row_of_choice[static_cast<std::size_t>(*choice)] = DispatchPlan::kDropped;
  }
}

void drop_choices(const Routing& routing, std::int64_t capacity, config::Moe::Drop drop, DispatchPlan& plan) {
  const auto chosen = routing.experts.values<std::int32_t>();
  const auto weights = routing.weights.values<float>();
  switch (drop) {
    case config::Moe::position:
      return drop_latest(
          chosen, capacity, [](std::int64_t place) { return place; }, plan);
    case config::Moe::probability:
      return drop_least_probable(chosen, weights, capacity, plan);
    case config::Moe::batch_prioritized: {
      const auto order = order_by_best_weight(weights, plan);
      return drop_latest(
          chosen, capacity,
          [&](std::int64_t place) -> std::int64_t { return order[static_cast<std::size_t>(place)]; }, plan);
    }
  }
}

void count_by_choice(std::span<const std::int32_t> chosen, DispatchPlan& plan) {
  const auto top_k = static_cast<std::size_t>(plan.top_k);
  plan.chosen_per_choice.assign(top_k, 0);
  plan.dropped_per_choice.assign(top_k, 0);
  for (std::size_t choice = 0; choice < chosen.size(); ++choice) {
    if (chosen[choice] == kNoExpert) continue;
    ++plan.chosen_per_choice[choice % top_k];
    if (plan.row_of_choice[choice] == DispatchPlan::kDropped) ++plan.dropped_per_choice[choice % top_k];
  }
}

}  // namespace

std::int64_t expert_capacity(double capacity_factor, std::int64_t tokens, std::int64_t top_k,
                             std::int64_t experts) {
  CONCLAVE_CHECK(capacity_factor >= 0 && tokens >= 0 && top_k > 0 && experts > 0,
                 "capacity of an expert: factor {}, tokens {}, top_k {}, experts {}", capacity_factor, tokens,
                 top_k, experts);
  const std::int64_t choices = tokens * top_k;
  if (capacity_factor == 0) return choices;
  const double product = capacity_factor * static_cast<double>(choices) / static_cast<double>(experts);
  // A factor like 1.1 isn't a binary number: it, the product and the quotient are each off by half an epsilon
  // at most, which must not cost a row.
  const double nearest = std::round(product);
  const bool is_whole = std::abs(product - nearest) <= 2 * std::numeric_limits<double>::epsilon() * product;
  return static_cast<std::int64_t>(is_whole ? nearest : std::ceil(product));
}

void check_choices(std::int64_t tokens, std::int64_t top_k) {
  CONCLAVE_CHECK(tokens * top_k <= std::numeric_limits<std::int32_t>::max(),
                 "{} tokens with {} choices each in one micro-batch are more than 32 bits can number: make "
                 "train.micro_batch smaller",
                 tokens, top_k);
}

void check_filled_rows(std::int64_t experts, std::int64_t capacity) {
  CONCLAVE_CHECK(experts * capacity <= std::numeric_limits<std::int32_t>::max(),
                 "{} experts with {} rows each are more than 32 bits can number: make train.micro_batch or "
                 "moe.capacity_factor smaller",
                 experts, capacity);
}

void make_dispatch_plan(const Routing& routing, std::int64_t experts, std::int64_t capacity,
                        config::Moe::Drop drop, DispatchPlan& plan) {
  const Shape& shape = routing.experts.shape();
  CONCLAVE_CHECK_EQ(shape.rank(), 2, "dimensions of the chosen experts [T, K]");
  CONCLAVE_CHECK(routing.weights.shape() == shape, "weights {} of chosen experts {}",
                 routing.weights.shape().text(), shape.text());
  CONCLAVE_CHECK(capacity >= 0, "an expert can't have capacity {}", capacity);
  check_choices(shape[0], shape[1]);
  const std::span<const std::int32_t> chosen = routing.experts.values<std::int32_t>();

  plan.tokens = shape[0];
  plan.top_k = shape[1];
  plan.experts = experts;
  plan.row_of_choice.resize(chosen.size());
  std::ranges::transform(chosen, plan.row_of_choice.begin(), [](std::int32_t expert) {
    return expert == kNoExpert ? DispatchPlan::kDropped : kKept;
  });
  count_choices(chosen, experts, plan.chosen_per_expert);
  plan.kept_per_expert.resize(static_cast<std::size_t>(experts));

  const bool over_capacity =
      std::ranges::any_of(plan.chosen_per_expert, [&](std::int64_t count) { return count > capacity; });
  if (over_capacity) drop_choices(routing, capacity, drop, plan);

  count_by_choice(chosen, plan);
  number_rows(chosen, plan);
  std::adjacent_difference(plan.expert_offsets.begin() + 1, plan.expert_offsets.end(),
                           plan.kept_per_expert.begin());
}

void fill_up_to_capacity(std::int64_t capacity, DispatchPlan& plan) {
  const std::int64_t rows = plan.experts * capacity;
  check_filled_rows(plan.experts, capacity);
  for (std::int64_t expert = 0; expert < plan.experts; ++expert) {
    const auto at = static_cast<std::size_t>(expert);
    const std::int64_t own = plan.expert_offsets[at + 1] - plan.expert_offsets[at];
    CONCLAVE_CHECK(own <= capacity, "expert {} has {} rows, and a capacity of {}", expert, own, capacity);
  }
  plan.choice_of_row.resize(static_cast<std::size_t>(rows));
  const auto row = plan.choice_of_row.begin();
  // From the last expert to the first: rows move up, into places that are free by then.
  std::int64_t end = plan.expert_offsets.back();  // of the expert's rows before they move
  plan.expert_offsets.back() = rows;
  for (std::int64_t expert = plan.experts - 1; expert >= 0; --expert) {
    std::int64_t& begin = plan.expert_offsets[static_cast<std::size_t>(expert)];
    const std::int64_t moved_end = expert * capacity + (end - begin);
    std::copy_backward(row + begin, row + end, row + moved_end);
    std::fill(row + moved_end, row + (expert + 1) * capacity, DispatchPlan::kNoChoice);
    for (std::int64_t r = expert * capacity; r < moved_end; ++r)
      plan.row_of_choice[static_cast<std::size_t>(row[r])] = static_cast<std::int32_t>(r);
    end = begin;
    begin = expert * capacity;
  }
}

}  // namespace conclave
