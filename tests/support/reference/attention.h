// Attention as the formula says: full S x S scores, plain loops, any scalar type.
#pragma once

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdint>
#include <limits>
#include <vector>

namespace conclave::test {

struct AttentionProblem {
  std::int64_t sequences = 1;
  std::int64_t sequence_length = 1;  // S
  std::int64_t heads = 1;
  std::int64_t kv_heads = 1;
  std::int64_t head_dim = 1;
  bool causal = true;
  std::vector<std::uint8_t> padding = {};  // [T], 1 for tokens that are no key; empty: none

  std::int64_t tokens() const { return sequences * sequence_length; }
  std::int64_t group() const { return heads / kv_heads; }
  bool sees(std::int64_t query, std::int64_t key) const {  // tokens
    if (!padding.empty() && padding[static_cast<std::size_t>(key)] != 0) return false;
    return query / sequence_length == key / sequence_length && (!causal || key <= query);
  }
  std::size_t query(std::int64_t token, std::int64_t head, std::int64_t d) const {
    return static_cast<std::size_t>((token * heads + head) * head_dim + d);
  }
  std::size_t key(std::int64_t token, std::int64_t head,
                  std::int64_t d) const {  // of the key that `head` uses
    return static_cast<std::size_t>((token * kv_heads + head / group()) * head_dim + d);
  }
  std::size_t query_elements() const { return static_cast<std::size_t>(tokens() * heads * head_dim); }
  std::size_t key_elements() const { return static_cast<std::size_t>(tokens() * kv_heads * head_dim); }
};

template <class T>
struct AttentionResult {
  std::vector<T> y;                 // [T, H hd]
  std::vector<T> log_sum_exp;       // [T, H]
  std::vector<double> y_magnitude;  // sum of the magnitudes of what y sums
  std::vector<T> p;                 // [T, H, T]
};

template <class T>
AttentionResult<T> reference_attention(const AttentionProblem& problem, const std::vector<T>& q,
                                       const std::vector<T>& k, const std::vector<T>& v) {
  const std::int64_t tokens = problem.tokens();
  AttentionResult<T> result{std::vector<T>(problem.query_elements()),
                            std::vector<T>(static_cast<std::size_t>(tokens * problem.heads)),
                            std::vector<double>(problem.query_elements()),
                            std::vector<T>(static_cast<std::size_t>(tokens * problem.heads * tokens))};
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t h = 0; h < problem.heads; ++h) {
      T* p = result.p.data() + (t * problem.heads + h) * tokens;
      double maximum = -std::numeric_limits<double>::infinity();
      for (std::int64_t j = 0; j < tokens; ++j) {
        if (!problem.sees(t, j)) continue;
        for (std::int64_t d = 0; d < problem.head_dim; ++d)
          p[j] += q[problem.query(t, h, d)] * k[problem.key(j, h, d)];
        p[j] /= std::sqrt(static_cast<double>(problem.head_dim));
        maximum = std::max(maximum, std::real(p[j]));
      }
      if (std::isinf(maximum)) continue;  // sees nothing: y = 0, and 0 stands for log_sum_exp
      T sum{};
      for (std::int64_t j = 0; j < tokens; ++j) {
        if (!problem.sees(t, j)) continue;
        p[j] = std::exp(p[j] - maximum);
        sum += p[j];
      }
      result.log_sum_exp[static_cast<std::size_t>(t * problem.heads + h)] = maximum + std::log(sum);
      for (std::int64_t j = 0; j < tokens; ++j) {
        if (!problem.sees(t, j)) continue;
        p[j] /= sum;
        for (std::int64_t d = 0; d < problem.head_dim; ++d) {
          const T term = p[j] * v[problem.key(j, h, d)];
          result.y[problem.query(t, h, d)] += term;
          result.y_magnitude[problem.query(t, h, d)] += std::abs(term);
        }
      }
    }
  }
  return result;
}

// A gradient, and for each element the sum of the magnitudes of all that was added and subtracted to make it.
struct Gradient {
  std::vector<double> value;
  std::vector<double> magnitude;

  explicit Gradient(std::size_t elements) : value(elements), magnitude(elements) {}
  void add(std::size_t index, double value_part, double magnitude_part) {
    value[index] += value_part;
    magnitude[index] += magnitude_part;
  }
};
struct AttentionGradients {
  Gradient dq;
  Gradient dk;
  Gradient dv;
};

inline AttentionGradients reference_attention_backward(const AttentionProblem& problem,
                                                       const std::vector<double>& q,
                                                       const std::vector<double>& k,
                                                       const std::vector<double>& v,
                                                       const std::vector<double>& dy) {
  const std::int64_t tokens = problem.tokens();
  const double scale = 1.0 / std::sqrt(static_cast<double>(problem.head_dim));
  const std::vector<double> p_all = reference_attention(problem, q, k, v).p;
  AttentionGradients gradients{Gradient(problem.query_elements()), Gradient(problem.key_elements()),
                               Gradient(problem.key_elements())};
  std::vector<double> dp(static_cast<std::size_t>(tokens));
  std::vector<double> dp_magnitude(static_cast<std::size_t>(tokens));
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t h = 0; h < problem.heads; ++h) {
      const double* p = p_all.data() + (t * problem.heads + h) * tokens;
      double mean_dp = 0.0;  // sum_j p_j dp_j
      double mean_dp_magnitude = 0.0;
      for (std::int64_t j = 0; j < tokens; ++j) {
        const auto index = static_cast<std::size_t>(j);
        dp[index] = dp_magnitude[index] = 0.0;
        for (std::int64_t d = 0; d < problem.head_dim; ++d) {
          const double product = dy[problem.query(t, h, d)] * v[problem.key(j, h, d)];
          dp[index] += product;
          dp_magnitude[index] += std::abs(product);
          const double dv = p[j] * dy[problem.query(t, h, d)];
          gradients.dv.add(problem.key(j, h, d), dv, std::abs(dv));
        }
        mean_dp += p[j] * dp[index];
        mean_dp_magnitude += p[j] * dp_magnitude[index];
      }
      for (std::int64_t j = 0; j < tokens; ++j) {
        const auto index = static_cast<std::size_t>(j);
        const double ds = p[j] * (dp[index] - mean_dp) * scale;
        const double ds_magnitude = p[j] * (dp_magnitude[index] + mean_dp_magnitude) * scale;
        for (std::int64_t d = 0; d < problem.head_dim; ++d) {
          const double q_element = q[problem.query(t, h, d)];
          const double k_element = k[problem.key(j, h, d)];
          gradients.dq.add(problem.query(t, h, d), ds * k_element, ds_magnitude * std::abs(k_element));
          gradients.dk.add(problem.key(j, h, d), ds * q_element, ds_magnitude * std::abs(q_element));
        }
      }
    }
  }
  return gradients;
}

}  // namespace conclave::test
