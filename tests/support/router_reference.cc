#include "tests/support/router_reference.h"

#include <fmt/format.h>

#include "tests/support/reference/expert_choice.h"
#include "tests/support/reference/noisy_top_k.h"
#include "tests/support/reference/sigmoid_top_k.h"

namespace conclave::test {
namespace {

using Experts = std::vector<std::int32_t>;

// Choice k of the batch's token n is expert (n K + k) mod E (moe.force_balanced).
Experts dealt(std::int64_t first, std::int64_t top_k, std::int64_t experts) {
  Experts result;
  for (std::int64_t k = 0; k < top_k; ++k) result.push_back(static_cast<std::int32_t>((first + k) % experts));
  return result;
}

std::int64_t number_in_batch(const RouterCase& c, std::int64_t t) {
  return c.context.batch.first_sequence * c.context.batch.sequence_length + t;
}

// `chosen`, or what moe.force_balanced puts in its place.
Experts choice_of(const RouterCase& c, std::int64_t t, const Experts& chosen) {
  if (!c.setting.moe().force_balanced()) return chosen;
  return dealt(number_in_batch(c, t) * c.K(), c.K(), c.E());
}

// What softmax says of the logits of each token, for routers whose gate is one softmax: `best` [T] are the
// experts whose weights are normalised among each other, `chosen` those of them that are sent to.
template <class T, class LogitsOf>
RouterReference<T> softmax_gate(const RouterCase& c, const std::vector<Experts>& best,
                                const std::vector<Experts>& chosen, bool normalize,
                                const LogitsOf& logits_of) {
  RouterReference<T> result;
  std::vector<std::vector<T>> probabilities;
  std::vector<T> squares;
  for (std::size_t t = 0; t < chosen.size(); ++t) {
    const auto one = reference_softmax_top_k(logits_of(static_cast<std::int64_t>(t)), best[t], normalize);
    for (std::size_t k = 0; k < best[t].size(); ++k)
      result.weights.push_back(chosen[t][k] == kNoExpert ? T(0)
                                                         : c.setting.moe().routed_scale() * one.weights[k]);
    probabilities.push_back(one.probabilities);
    squares.push_back(one.log_sum_exp * one.log_sum_exp);
  }
  result.terms = reference_sequence_terms(c, probabilities, chosen, squares);
  return result;
}

// softmax and dense.
void expect_softmax(RouterCase& c) {
  const bool normalize = c.setting.moe().normalize_top_k();
  const auto at = c.values();
  std::vector<Experts> best, chosen;
  for (std::int64_t t = 0; t < c.tokens(); ++t) {
    best.push_back(choice_of(c, t, reference_top_k(RouterCase::logits(at, ".weight", t), c.K())));
    chosen.push_back(c.context.is_padding(t) ? empty_places(c.K()) : best.back());
  }
  c.expect_matches(chosen, [&]<class T>(const NamedTensors<T>& point) {
    return softmax_gate<T>(c, best, chosen, normalize,
                           [&](std::int64_t t) { return RouterCase::logits(point, ".weight", t); });
  });
}

// Whether chance keeps the second expert of token t, by its weight.
bool keeps_second(const RouterCase& c, std::int64_t t, double g2) {
  const RandomStream random(7, RouterCase::kName + "/second_choice");
  return c.setting.moe().force_balanced() ||
         random.uniform(static_cast<std::uint64_t>(c.context.batch.first_token_of_run() + t)) < 2 * g2;
}

void expect_gshard(RouterCase& c) {
  const auto at = c.values();
  std::vector<Experts> best, chosen;
  for (std::int64_t t = 0; t < c.tokens(); ++t) {
    const auto logits = RouterCase::logits(at, ".weight", t);
    best.push_back(choice_of(c, t, reference_top_k(logits, 2)));
    chosen.push_back(best.back());
    if (!keeps_second(c, t, reference_softmax_top_k(logits, best.back(), true).weights[1])) {
      chosen.back()[1] = kNoExpert;
      c.dweights[static_cast<std::size_t>(2 * t + 1)] = 0;
    }
    if (c.context.is_padding(t)) chosen.back() = empty_places(2);
  }
  c.expect_matches(chosen, [&]<class T>(const NamedTensors<T>& point) {
    return softmax_gate<T>(c, best, chosen, /*normalize=*/true,
                           [&](std::int64_t t) { return RouterCase::logits(point, ".weight", t); });
  });
}

template <class T>
struct NoisyLogits {
  std::vector<T> clean, deviation, noisy;  // [E]

  NoisyLogits(const NamedTensors<T>& at, const RouterCase& c, std::int64_t t)
      : clean(RouterCase::logits(at, ".weight", t)) {
    const RandomStream random(7, RouterCase::kName + "/noise");
    const std::vector<T> spread = RouterCase::logits(at, ".noise_weight", t);
    for (std::size_t e = 0; e < clean.size(); ++e) {
      deviation.push_back(reference_softplus(spread[e]) + 0.01);
      const auto index = (c.context.batch.first_token_of_run() + t) * c.E() + static_cast<std::int64_t>(e);
      noisy.push_back(clean[e] +
                      static_cast<double>(random.normal(static_cast<std::uint64_t>(index))) * deviation[e]);
    }
  }
};

// Importance and load within each sequence.
template <class T>
T variation_terms(const RouterCase& c, const std::vector<std::vector<T>>& gates,
                  const std::vector<std::vector<T>>& loads) {
  const auto length = static_cast<std::size_t>(c.context.batch.sequence_length);
  T sum = 0;
  for (std::size_t begin = 0; begin < gates.size(); begin += length) {
    std::vector<T> importance(gates[0].size(), T(0));
    std::vector<T> load(gates[0].size(), T(0));
    double tokens = 0;
    for (std::size_t t = begin; t < begin + length; ++t) {
      if (c.context.is_padding(static_cast<std::int64_t>(t))) continue;
      tokens += 1;
      for (std::size_t e = 0; e < load.size(); ++e) {
        importance[e] += gates[t][e];
        load[e] += loads[t][e];
      }
    }
    const double share = tokens / static_cast<double>(c.context.batch.global_tokens());
    if (tokens == 0) continue;
    sum += share * c.setting.moe().importance_loss() * reference_squared_variation(importance);
    sum += share * c.setting.moe().load_loss() * reference_squared_variation(load);
  }
  return sum;
}

void expect_noisy_top_k(RouterCase& c) {
  const auto at = c.values();
  std::vector<Experts> best, chosen, thresholds;
  for (std::int64_t t = 0; t < c.tokens(); ++t) {
    const NoisyLogits<double> logits(at, c, t);
    best.push_back(choice_of(c, t, reference_top_k(logits.noisy, c.K())));
    chosen.push_back(c.context.is_padding(t) ? empty_places(c.K()) : best.back());
    thresholds.push_back(reference_thresholds(logits.noisy, c.K()));
  }
  c.expect_matches(chosen, [&]<class T>(const NamedTensors<T>& point) {
    RouterReference<T> result = softmax_gate<T>(c, best, chosen, /*normalize=*/true, [&](std::int64_t t) {
      return NoisyLogits<T>(point, c, t).noisy;
    });
    std::vector<std::vector<T>> gates, loads;
    for (std::size_t t = 0; t < best.size(); ++t) {
      const NoisyLogits<T> logits(point, c, static_cast<std::int64_t>(t));
      const auto one = reference_softmax_top_k(logits.noisy, best[t], true);
      gates.emplace_back(static_cast<std::size_t>(c.E()), T(0));
      for (std::size_t k = 0; k < best[t].size(); ++k)
        gates.back()[static_cast<std::size_t>(best[t][k])] = one.weights[k];
      loads.push_back(reference_load(logits.clean, logits.noisy, logits.deviation, thresholds[t]));
    }
    result.terms += variation_terms(c, gates, loads);
    return result;
  });
}

void expect_sigmoid(RouterCase& c) {
  const config::Moe& moe = c.setting.moe();
  const auto at = c.values();
  std::vector<Experts> best, chosen;
  for (std::int64_t t = 0; t < c.tokens(); ++t) {
    std::vector<double> biased = RouterCase::logits(at, ".weight", t);
    for (std::size_t e = 0; e < biased.size(); ++e) {
      const bool is_infinite = biased[e] < -static_cast<double>(std::numeric_limits<float>::max());
      biased[e] = is_infinite ? biased[e] : reference_sigmoid(biased[e]) + static_cast<double>(c.bias[e]);
    }
    best.push_back(choice_of(c, t, reference_top_k(biased, c.K())));
    chosen.push_back(c.context.is_padding(t) ? empty_places(c.K()) : best.back());
  }
  c.expect_matches(chosen, [&]<class T>(const NamedTensors<T>& point) {
    RouterReference<T> result;
    std::vector<std::vector<T>> probabilities;
    std::vector<T> squares;
    for (std::size_t t = 0; t < best.size(); ++t) {
      const auto one =
          reference_sigmoid_top_k(RouterCase::logits(point, ".weight", static_cast<std::int64_t>(t)), best[t],
                                  moe.normalize_top_k(), moe.routed_scale());
      for (std::size_t k = 0; k < best[t].size(); ++k)
        result.weights.push_back(chosen[t][k] == kNoExpert ? T(0) : one.weights[k]);
      probabilities.push_back(one.probabilities);
      squares.push_back(one.log_sum_exp * one.log_sum_exp);
    }
    result.terms = reference_sequence_terms(c, probabilities, chosen, squares);
    return result;
  });
}

// The gates of one token of the hierarchical router: over groups, and within each group.
template <class T>
struct TokenGates {
  std::vector<T> group_logits;               // [G]
  std::vector<std::vector<T>> inner_logits;  // [G][M]

  TokenGates(const NamedTensors<T>& at, const config::Moe& moe, std::int64_t token)
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
  Experts groups;               // [H]
  std::vector<Experts> places;  // [H][K / H]
  std::vector<Place> order;     // [K], descending weight
};

TokenChoice choose_in_groups(const RouterCase& c, const TokenGates<double>& gates, std::int64_t t) {
  const config::Moe& moe = c.setting.moe();
  const std::int64_t G = moe.expert_groups();
  const std::int64_t H = moe.top_groups();
  const std::int64_t in_group = moe.top_k() / H;
  const bool is_dealt = moe.force_balanced();
  TokenChoice choice;
  choice.groups = is_dealt ? dealt(number_in_batch(c, t) * H, H, G) : reference_top_k(gates.group_logits, H);
  const auto a = reference_softmax_top_k(gates.group_logits, choice.groups, true).weights;
  for (std::size_t h = 0; h < choice.groups.size(); ++h) {
    const auto& inner = gates.inner_logits[static_cast<std::size_t>(choice.groups[h])];
    const std::int64_t round = (number_in_batch(c, t) * H + static_cast<std::int64_t>(h)) / G;
    choice.places.push_back(is_dealt
                                ? dealt(round * in_group, in_group, static_cast<std::int64_t>(inner.size()))
                                : reference_top_k(inner, in_group));
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

void expect_hierarchical(RouterCase& c) {
  const config::Moe& moe = c.setting.moe();
  const auto at = c.values();
  std::vector<TokenChoice> choices;
  std::vector<Experts> chosen;
  for (std::int64_t t = 0; t < c.tokens(); ++t) {
    choices.push_back(choose_in_groups(c, TokenGates<double>(at, moe, t), t));
    chosen.emplace_back();
    for (const Place& place : choices.back().order)
      chosen.back().push_back(c.context.is_padding(t) ? kNoExpert : place.expert);
  }
  c.expect_matches(chosen, [&]<class T>(const NamedTensors<T>& point) {
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
    result.terms = reference_sequence_terms(c, joint, chosen, squares);
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
        entropy += reference_entropy({outer[g] * p});
  }
  EXPECT_NEAR(c.statistics.router_entropy_sum, entropy, 1e-5 * entropy + 1e-12);
}

// Every place of a token: its experts by descending score, then empty ones.
void expect_expert_choice(RouterCase& c) {
  const config::Moe& moe = c.setting.moe();
  const std::int64_t S = c.context.batch.sequence_length;
  const auto at = c.values();
  std::vector<Experts> best, chosen;
  for (std::int64_t begin = 0; begin < c.tokens(); begin += S) {
    std::vector<std::vector<double>> p;  // of the tokens that are no padding, which ends the sequence
    for (std::int64_t t = begin; t < begin + S && !c.context.is_padding(t); ++t)
      p.push_back(reference_softmax_top_k(RouterCase::logits(at, ".weight", t), {}, false).probabilities);
    const auto real = static_cast<double>(p.size());
    const double share =
        moe.capacity_factor() * static_cast<double>(moe.top_k()) / static_cast<double>(c.E());
    const auto choice =
        reference_expert_choice(p, static_cast<std::int64_t>(std::min(real, std::ceil(share * real))));
    for (std::int64_t t = 0; t < S; ++t) {
      chosen.push_back(t < std::ssize(p) ? choice.experts_of[static_cast<std::size_t>(t)] : Experts{});
      chosen.back().resize(static_cast<std::size_t>(c.E()), kNoExpert);
      best.push_back(chosen.back());
      std::ranges::replace(best.back(), kNoExpert, 0);  // of any weight: it isn't used
    }
  }
  for (std::size_t t = 0; t < chosen.size(); ++t)
    for (std::size_t k = 0; k < chosen[t].size(); ++k)
      if (chosen[t][k] == kNoExpert) c.dweights[t * chosen[t].size() + k] = 0;
  c.expect_matches(chosen, [&]<class T>(const NamedTensors<T>& point) {
    return softmax_gate<T>(c, best, chosen, /*normalize=*/false,
                           [&](std::int64_t t) { return RouterCase::logits(point, ".weight", t); });
  });
}

}  // namespace

void expect_matches_definition(RouterCase& c) {
  switch (c.setting.moe().router()) {
    case config::Moe::softmax:
    case config::Moe::dense:
      return expect_softmax(c);
    case config::Moe::sigmoid:
      return expect_sigmoid(c);
    case config::Moe::gshard:
      return expect_gshard(c);
    case config::Moe::noisy_top_k:
      return expect_noisy_top_k(c);
    case config::Moe::hierarchical:
      return expect_hierarchical(c);
    case config::Moe::expert_choice:
      return expect_expert_choice(c);
    case config::Moe::hash:
      FAIL() << "hash has no gate";
  }
}

config::Experiment router_experiment(config::Moe::Router router, std::int64_t experts, std::int64_t top_k) {
  const bool has_all_places = router == config::Moe::dense || router == config::Moe::expert_choice;
  if (has_all_places) top_k = experts;
  if (router == config::Moe::gshard) top_k = 2;
  config::Experiment experiment = RouterCase::experiment(router, experts, top_k);
  config::Moe& moe = *experiment.mutable_moe();
  moe.set_routed_scale(1.5);
  if (has_all_places) moe.set_balance_loss(0);
  if (router == config::Moe::expert_choice) moe.set_capacity_factor(0.5);  // C = 3 of 5 tokens
  if (router == config::Moe::noisy_top_k) {
    moe.set_importance_loss(0.7);
    moe.set_load_loss(0.9);
  }
  if (router == config::Moe::hierarchical) {
    moe.set_expert_groups(std::max<std::int64_t>(experts / 2, 1));
    moe.set_top_groups(std::max<std::int64_t>(top_k / 2, 1));
  }
  return experiment;
}

}  // namespace conclave::test
