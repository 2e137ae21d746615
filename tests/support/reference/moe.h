// The Mixture-of-Experts layer by its definition: one token, one choice, one element at a time. Independent
// of the product code, templated so that it runs in double, in std::complex<double> (complex-step derivatives
// of the forward) and in Bounded (error bounds of both directions).
#pragma once

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdint>
#include <numeric>
#include <vector>

#include "tests/support/reference/activation.h"

namespace conclave::test::reference {

struct MoeSizes {
  std::size_t tokens = 0;       // T
  std::size_t d_model = 0;      // D
  std::size_t d_ff = 0;         // F
  std::size_t experts = 0;      // E
  std::size_t top_k = 0;        // K
  std::size_t shared_d_ff = 0;  // 0: no shared experts
  bool normalize = true;
  std::size_t capacity = SIZE_MAX;  // rows an expert takes
  bool drop_smallest = false;       // over capacity drop the smallest weights; false: the latest
  bool renormalize = false;         // weights among the choices that were kept
  bool shared_gate = false;
  config::Activation activation = config::swiglu;

  // Rows of the input projection for each hidden element.
  std::size_t projections() const { return activation == config::swiglu ? 2 : 1; }
};

// Inputs of the layer, or their gradients. Shared tensors are empty without shared experts.
template <class T>
struct MoeTensors {
  std::vector<T> x;               // [T, D]
  std::vector<T> router;          // [E, D]
  std::vector<T> gate_up;         // [E, 2F, D]; without a gate, here and below, up [E, F, D]
  std::vector<T> down;            // [E, D, F]
  std::vector<T> shared_gate_up;  // [2F', D]
  std::vector<T> shared_down;     // [D, F']
  std::vector<T> shared_gate;     // [1, D]; empty without moe.shared_gate

  MoeTensors() = default;
  explicit MoeTensors(const MoeSizes& s)
      : x(s.tokens * s.d_model),
        router(s.experts * s.d_model),
        gate_up(s.experts * s.projections() * s.d_ff * s.d_model),
        down(s.experts * s.d_model * s.d_ff),
        shared_gate_up(s.projections() * s.shared_d_ff * s.d_model),
        shared_down(s.d_model * s.shared_d_ff),
        shared_gate(s.shared_gate ? s.d_model : 0) {}

  // The members one after the other, for loops over all.
  std::vector<std::vector<T>*> all() {
    return {&x, &router, &gate_up, &down, &shared_gate_up, &shared_down, &shared_gate};
  }

  template <class U>
  MoeTensors<U> as() const {
    MoeTensors<U> other;
    other.x.assign(x.begin(), x.end());
    other.router.assign(router.begin(), router.end());
    other.gate_up.assign(gate_up.begin(), gate_up.end());
    other.down.assign(down.begin(), down.end());
    other.shared_gate_up.assign(shared_gate_up.begin(), shared_gate_up.end());
    other.shared_down.assign(shared_down.begin(), shared_down.end());
    other.shared_gate.assign(shared_gate.begin(), shared_gate.end());
    return other;
  }
};

// The discrete part, fixed where derivatives are taken.
struct MoeChoices {
  std::vector<std::size_t> expert;  // [T, K]
  std::vector<bool> kept;           // [T, K]
  double smallest_gap = INFINITY;   // between the logits of neighbours in the order down to choice K + 1
};

template <class T>
T dot(const T* a, const T* b, std::size_t n) {
  T sum(0.0);
  for (std::size_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// What one token does inside one feed-forward of width F: in [2F, D] (gate, up; swiglu) or [F, D], down [D,
// F].
template <class T>
struct FeedForwardToken {
  std::vector<T> gate, up, hidden, y;

  FeedForwardToken(const T* x, const T* in, const T* down, std::size_t d_model, std::size_t d_ff,
                   config::Activation kind, const std::vector<double>& dropout = {})
      : kind_(kind), dropout_(dropout) {
    using std::exp;
    const bool gated = kind == config::swiglu;
    for (std::size_t f = 0; f < d_ff; ++f) {
      up.push_back(dot(x, in + ((gated ? d_ff : 0) + f) * d_model, d_model));
      if (gated) {
        gate.push_back(dot(x, in + f * d_model, d_model));
        hidden.push_back(gate[f] / (T(1.0) + exp(-gate[f])) * up[f]);
      } else {
        hidden.push_back(activation(kind, up[f]));
      }
      if (!dropout.empty()) hidden[f] = T(dropout[f]) * hidden[f];
    }
    for (std::size_t d = 0; d < d_model; ++d) y.push_back(dot(hidden.data(), down + d * d_ff, d_ff));
  }

  // Adds the gradients of dot(dy, y).
  void backward(const T* x, const T* in, const T* down, const std::vector<T>& dy, T* dx, T* din,
                T* ddown) const {
    using std::exp;
    const std::size_t d_model = dy.size();
    const std::size_t d_ff = hidden.size();
    const auto project_back = [&](std::size_t row, const T& dpreactivation) {
      for (std::size_t d = 0; d < d_model; ++d) {
        din[row * d_model + d] += dpreactivation * x[d];
        dx[d] += dpreactivation * in[row * d_model + d];
      }
    };
    for (std::size_t f = 0; f < d_ff; ++f) {
      T dhidden(0.0);
      for (std::size_t d = 0; d < d_model; ++d) {
        dhidden += dy[d] * down[d * d_ff + f];
        ddown[d * d_ff + f] += dy[d] * hidden[f];
      }
      if (!dropout_.empty()) dhidden = T(dropout_[f]) * dhidden;
      if (kind_ != config::swiglu) {
        project_back(f, dhidden * activation_derivative(kind_, up[f]));
        continue;
      }
      const T sigmoid = T(1.0) / (T(1.0) + exp(-gate[f]));
      project_back(f, dhidden * up[f] * sigmoid * (T(1.0) + gate[f] * (T(1.0) - sigmoid)));
      project_back(d_ff + f, dhidden * gate[f] * sigmoid);
    }
  }

 private:
  config::Activation kind_;
  std::vector<double> dropout_;  // factor of each hidden element: 0 or 1 / (1 - rate); empty without dropout
};

// The gate of a token on the shared experts: sigmoid(x . w), 1 without w.
template <class T>
T shared_gate_of(const MoeSizes& s, const T* x, const std::vector<T>& w) {
  using std::exp;
  return s.shared_gate ? T(1.0) / (T(1.0) + exp(-dot(x, w.data(), s.d_model))) : T(1.0);
}

// What the router says of one token: p = softmax over all experts, w the weights of the K choices. Weights
// that are normalised are a softmax among the chosen; renormalised, among those that were kept.
template <class T>
struct RouterToken {
  std::vector<T> p, w;

  bool normalized;

  // `kept`: which of the K weights share the sum; empty for all of them.
  RouterToken(const MoeSizes& s, const T* x, const T* router, const std::size_t* chosen,
              const std::vector<bool>& kept = {})
      : normalized(s.normalize || !kept.empty()) {
    using std::exp;
    const auto is_kept = [&](std::size_t k) { return kept.empty() || kept[k]; };
    T sum(0.0);
    for (std::size_t e = 0; e < s.experts; ++e) {
      p.push_back(exp(dot(x, router + e * s.d_model, s.d_model)));
      sum += p[e];
    }
    T chosen_sum(0.0);
    for (std::size_t k = 0; k < s.top_k; ++k) {
      if (is_kept(k)) chosen_sum += p[chosen[k]];
    }
    for (std::size_t k = 0; k < s.top_k; ++k)
      w.push_back(is_kept(k) ? p[chosen[k]] / (normalized ? chosen_sum : sum) : T(0.0));
    for (T& probability : p) probability = probability / sum;
  }

  // Adds the gradients of sum_k dw[k] w[k]. Normalised weights are a softmax among the chosen.
  void backward(const MoeSizes& s, const T* x, const T* router, const std::size_t* chosen,
                const std::vector<T>& dw, T* dx, T* drouter) const {
    std::vector<T> dlogits(s.experts, T(0.0));
    const T mean = dot(w.data(), dw.data(), s.top_k);
    if (!normalized) {
      for (std::size_t e = 0; e < s.experts; ++e) dlogits[e] = -(p[e] * mean);
    }
    for (std::size_t k = 0; k < s.top_k; ++k) {
      dlogits[chosen[k]] += w[k] * (normalized ? dw[k] - mean : dw[k]);
    }
    for (std::size_t e = 0; e < s.experts; ++e) {
      for (std::size_t d = 0; d < s.d_model; ++d) {
        drouter[e * s.d_model + d] += dlogits[e] * x[d];
        dx[d] += dlogits[e] * router[e * s.d_model + d];
      }
    }
  }
};

// The `kept` of RouterToken.
inline std::vector<bool> sharing_choices(const MoeSizes& s, const MoeChoices& choices, std::size_t token) {
  if (!s.renormalize) return {};
  const auto first = choices.kept.begin() + static_cast<std::ptrdiff_t>(token * s.top_k);
  return {first, first + static_cast<std::ptrdiff_t>(s.top_k)};
}

inline MoeChoices choose(const MoeSizes& s, const MoeTensors<double>& in) {
  MoeChoices choices;
  std::vector<double> weights;  // [T, K]
  for (std::size_t t = 0; t < s.tokens; ++t) {
    const double* x = &in.x[t * s.d_model];
    std::vector<double> logits;
    for (std::size_t e = 0; e < s.experts; ++e)
      logits.push_back(dot(x, &in.router[e * s.d_model], s.d_model));
    std::vector<std::size_t> order(s.experts);
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::ranges::stable_sort(order, [&](std::size_t a, std::size_t b) { return logits[a] > logits[b]; });
    for (std::size_t k = 0; k < s.top_k && k + 1 < s.experts; ++k) {
      choices.smallest_gap = std::min(choices.smallest_gap, logits[order[k]] - logits[order[k + 1]]);
    }
    order.resize(s.top_k);
    choices.expert.insert(choices.expert.end(), order.begin(), order.end());
    const RouterToken<double> token(s, x, in.router.data(), order.data());
    weights.insert(weights.end(), token.w.begin(), token.w.end());
  }
  // Every expert keeps the first `capacity` choices of a queue.
  choices.kept.assign(s.tokens * s.top_k, false);
  std::vector<std::size_t> queue(s.tokens * s.top_k);
  std::iota(queue.begin(), queue.end(), std::size_t{0});
  std::ranges::stable_sort(queue, [&](std::size_t a, std::size_t b) {
    return s.drop_smallest ? weights[a] > weights[b] : a % s.top_k < b % s.top_k;
  });
  std::vector<std::size_t> taken(s.experts, 0);
  for (const std::size_t choice : queue) choices.kept[choice] = taken[choices.expert[choice]]++ < s.capacity;
  return choices;
}

// y [T, D].
template <class T>
std::vector<T> moe_forward(const MoeSizes& s, const MoeChoices& choices, const MoeTensors<T>& in) {
  std::vector<T> y(s.tokens * s.d_model, T(0.0));
  for (std::size_t t = 0; t < s.tokens; ++t) {
    const T* x = &in.x[t * s.d_model];
    const std::size_t* chosen = &choices.expert[t * s.top_k];
    const RouterToken<T> routed(s, x, in.router.data(), chosen, sharing_choices(s, choices, t));
    for (std::size_t k = 0; k < s.top_k; ++k) {
      if (!choices.kept[t * s.top_k + k]) continue;
      const FeedForwardToken<T> expert(x, &in.gate_up[chosen[k] * s.projections() * s.d_ff * s.d_model],
                                       &in.down[chosen[k] * s.d_model * s.d_ff], s.d_model, s.d_ff,
                                       s.activation);
      for (std::size_t d = 0; d < s.d_model; ++d) y[t * s.d_model + d] += routed.w[k] * expert.y[d];
    }
    if (s.shared_d_ff == 0) continue;
    const FeedForwardToken<T> shared(x, in.shared_gate_up.data(), in.shared_down.data(), s.d_model,
                                     s.shared_d_ff, s.activation);
    const T gate = shared_gate_of(s, x, in.shared_gate);
    for (std::size_t d = 0; d < s.d_model; ++d) y[t * s.d_model + d] += gate * shared.y[d];
  }
  return y;
}

// Gradients of sum(dy * y) in every input.
template <class T>
MoeTensors<T> moe_backward(const MoeSizes& s, const MoeChoices& choices, const MoeTensors<T>& in,
                           const std::vector<T>& dy) {
  MoeTensors<T> gradients(s);
  for (std::size_t t = 0; t < s.tokens; ++t) {
    const T* x = &in.x[t * s.d_model];
    T* dx = &gradients.x[t * s.d_model];
    const std::vector<T> dy_token(dy.begin() + static_cast<std::ptrdiff_t>(t * s.d_model),
                                  dy.begin() + static_cast<std::ptrdiff_t>((t + 1) * s.d_model));
    const std::size_t* chosen = &choices.expert[t * s.top_k];
    const RouterToken<T> routed(s, x, in.router.data(), chosen, sharing_choices(s, choices, t));
    std::vector<T> dw(s.top_k, T(0.0));
    for (std::size_t k = 0; k < s.top_k; ++k) {
      if (!choices.kept[t * s.top_k + k]) continue;
      const std::size_t gate_up_at = chosen[k] * s.projections() * s.d_ff * s.d_model;
      const std::size_t down_at = chosen[k] * s.d_model * s.d_ff;
      const FeedForwardToken<T> expert(x, &in.gate_up[gate_up_at], &in.down[down_at], s.d_model, s.d_ff,
                                       s.activation);
      dw[k] = dot(dy_token.data(), expert.y.data(), s.d_model);
      std::vector<T> dy_expert;
      for (const T& value : dy_token) dy_expert.push_back(routed.w[k] * value);
      expert.backward(x, &in.gate_up[gate_up_at], &in.down[down_at], dy_expert, dx,
                      &gradients.gate_up[gate_up_at], &gradients.down[down_at]);
    }
    routed.backward(s, x, in.router.data(), chosen, dw, dx, gradients.router.data());
    if (s.shared_d_ff == 0) continue;
    const FeedForwardToken<T> shared(x, in.shared_gate_up.data(), in.shared_down.data(), s.d_model,
                                     s.shared_d_ff, s.activation);
    const T gate = shared_gate_of(s, x, in.shared_gate);
    std::vector<T> dy_shared;
    for (const T& value : dy_token) dy_shared.push_back(gate * value);
    shared.backward(x, in.shared_gate_up.data(), in.shared_down.data(), dy_shared, dx,
                    gradients.shared_gate_up.data(), gradients.shared_down.data());
    if (!s.shared_gate) continue;
    const T dlogit = dot(dy_token.data(), shared.y.data(), s.d_model) * gate * (T(1.0) - gate);
    for (std::size_t d = 0; d < s.d_model; ++d) {
      gradients.shared_gate[d] += dlogit * x[d];
      dx[d] += dlogit * in.shared_gate[d];
    }
  }
  return gradients;
}

// The same gradients without any derivative formula: Im L(p + ih) / h, exact to rounding for analytic L.
inline MoeTensors<double> moe_complex_step(const MoeSizes& s, const MoeChoices& choices,
                                           const MoeTensors<double>& in, const std::vector<double>& dy) {
  using Complex = std::complex<double>;
  constexpr double kStep = 1e-30;
  MoeTensors<Complex> point = in.as<Complex>();
  MoeTensors<double> gradients(s);
  const auto points = point.all();
  const auto outputs = gradients.all();
  for (std::size_t tensor = 0; tensor < points.size(); ++tensor) {
    for (std::size_t i = 0; i < points[tensor]->size(); ++i) {
      Complex& variable = (*points[tensor])[i];
      variable += Complex(0, kStep);
      const std::vector<Complex> y = moe_forward(s, choices, point);
      double derivative = 0;
      for (std::size_t j = 0; j < y.size(); ++j) derivative += dy[j] * y[j].imag();
      (*outputs[tensor])[i] = derivative / kStep;
      variable = variable.real();
    }
  }
  return gradients;
}

}  // namespace conclave::test::reference
