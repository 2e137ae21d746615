// Expert choice as its paper writes it: the column of an expert, sorted; for any scalar type.
#pragma once

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdint>
#include <vector>

namespace conclave::test {

// p [n][E] = softmax of x [n][D] times W [E][D], token by token; and ln sum exp [n].
template <class T>
struct ReferenceScores {
  std::vector<std::vector<T>> p;
  std::vector<T> log_sum_exp;

  ReferenceScores(const std::vector<T>& x, const std::vector<T>& w, std::size_t d_model) {
    const std::size_t experts = w.size() / d_model;
    for (std::size_t t = 0; t < x.size() / d_model; ++t) {
      T sum = 0;
      std::vector<T> row(experts, T(0));
      for (std::size_t e = 0; e < experts; ++e) {
        T logit = 0;
        for (std::size_t d = 0; d < d_model; ++d) logit += x[t * d_model + d] * w[e * d_model + d];
        row[e] = std::exp(logit);
        sum += row[e];
      }
      for (T& value : row) value /= sum;
      p.push_back(row);
      log_sum_exp.push_back(std::log(sum));
    }
  }
};

struct ReferenceExpertChoice {
  std::vector<std::vector<std::int32_t>> experts_of;  // [n]: of each token, best first
  double smallest_gap = 1e300;                        // between p that decide a choice or an order, relative
};

// One sequence of n tokens, each expert takes `capacity` of them.
inline ReferenceExpertChoice reference_expert_choice(const std::vector<std::vector<double>>& p,
                                                     std::int64_t capacity) {
  ReferenceExpertChoice choice;
  const std::size_t tokens = p.size();
  choice.experts_of.resize(tokens);
  for (std::size_t e = 0; tokens > 0 && e < p.front().size(); ++e) {
    std::vector<std::size_t> column(tokens);
    for (std::size_t t = 0; t < tokens; ++t) column[t] = t;
    std::stable_sort(column.begin(), column.end(),
                     [&](std::size_t a, std::size_t b) { return p[a][e] > p[b][e]; });
    const auto taken = static_cast<std::size_t>(capacity);
    for (std::size_t i = 0; i < taken; ++i)
      choice.experts_of[column[i]].push_back(static_cast<std::int32_t>(e));
    if (taken > 0 && taken < tokens)
      choice.smallest_gap = std::min(choice.smallest_gap, p[column[taken - 1]][e] / p[column[taken]][e] - 1);
  }
  for (std::size_t t = 0; t < tokens; ++t) {
    const auto score = [&](std::int32_t e) { return p[t][static_cast<std::size_t>(e)]; };
    auto& chosen = choice.experts_of[t];
    std::ranges::stable_sort(chosen, [&](std::int32_t a, std::int32_t b) { return score(a) > score(b); });
    for (std::size_t i = 1; i < chosen.size(); ++i)
      choice.smallest_gap = std::min(choice.smallest_gap, score(chosen[i - 1]) / score(chosen[i]) - 1);
  }
  return choice;
}

}  // namespace conclave::test
