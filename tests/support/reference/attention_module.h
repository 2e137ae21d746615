// The attention module as plain loops: projections, QK-norm, rotation, attention, output projection.
#pragma once

#include "tests/support/reference/attention.h"

namespace conclave::test {

// All that the module's result is a function of.
template <class T>
struct AttentionInputs {
  std::vector<T> x;       // [T, D]
  std::vector<T> qkv;     // [(H + 2 Hkv) hd, D]
  std::vector<T> out;     // [D, H hd]
  std::vector<T> q_norm;  // [hd], or [H hd] for a norm over all heads; empty without QK-norm
  std::vector<T> k_norm;  // [hd], or [Hkv hd]; empty without QK-norm
};

// x [rows, inner] times the transpose of w [columns, inner], rows first_column .. of w only.
template <class T>
std::vector<T> project(const std::vector<T>& x, const std::vector<T>& w, std::int64_t inner,
                       std::int64_t first_column, std::int64_t columns) {
  const std::int64_t rows = static_cast<std::int64_t>(x.size()) / inner;
  std::vector<T> y(static_cast<std::size_t>(rows * columns));
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < columns; ++c) {
      for (std::int64_t i = 0; i < inner; ++i) {
        y[static_cast<std::size_t>(r * columns + c)] +=
            x[static_cast<std::size_t>(r * inner + i)] *
            w[static_cast<std::size_t>((first_column + c) * inner + i)];
      }
    }
  }
  return y;
}

// RMSNorm of consecutive rows as long as `weight`; nothing if that is empty.
template <class T>
void norm_rows(std::vector<T>& values, const std::vector<T>& weight, double eps) {
  for (std::size_t row = 0; !weight.empty() && row < values.size(); row += weight.size()) {
    T mean_square{};
    for (std::size_t i = 0; i < weight.size(); ++i) mean_square += values[row + i] * values[row + i];
    mean_square /= static_cast<double>(weight.size());
    for (std::size_t i = 0; i < weight.size(); ++i) {
      values[row + i] *= weight[i] / std::sqrt(mean_square + eps);
    }
  }
}

// Norm and rotate-half of heads [T, heads, hd], one after the other.
template <class T>
void norm_and_rotate(std::vector<T>& heads_of_tokens, const std::vector<T>& weight,
                     const AttentionProblem& problem, std::int64_t heads, double eps, double theta) {
  norm_rows(heads_of_tokens, weight, eps);
  const std::int64_t half = problem.head_dim / 2;
  for (std::int64_t row = 0; row < problem.tokens() * heads; ++row) {
    T* head = heads_of_tokens.data() + row * problem.head_dim;
    const auto position = static_cast<double>(row / heads % problem.sequence_length);
    for (std::int64_t i = 0; i < half; ++i) {
      const double angle =
          position * std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(problem.head_dim));
      const T first = head[i];
      const T second = head[i + half];
      head[i] = first * std::cos(angle) - second * std::sin(angle);
      head[i + half] = second * std::cos(angle) + first * std::sin(angle);
    }
  }
}

template <class T>
std::vector<T> reference_attention_module(const AttentionProblem& problem, std::int64_t d_model, double eps,
                                          double theta, const AttentionInputs<T>& inputs) {
  const std::int64_t query_width = problem.heads * problem.head_dim;
  const std::int64_t kv_width = problem.kv_heads * problem.head_dim;
  std::vector<T> q = project(inputs.x, inputs.qkv, d_model, 0, query_width);
  std::vector<T> k = project(inputs.x, inputs.qkv, d_model, query_width, kv_width);
  const std::vector<T> v = project(inputs.x, inputs.qkv, d_model, query_width + kv_width, kv_width);
  norm_and_rotate(q, inputs.q_norm, problem, problem.heads, eps, theta);
  norm_and_rotate(k, inputs.k_norm, problem, problem.kv_heads, eps, theta);
  return project(reference_attention(problem, q, k, v).y, inputs.out, query_width, 0, d_model);
}

}  // namespace conclave::test
