// How far two trainings of the same model are apart, and how far one rounding moves one.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "trainer/train_step.h"
#include "trainer/trainer.h"

namespace conclave::test {

// Differences of one run from the reference after a step, as shares of the reference's norms.
struct Deviation {
  double loss = 0;
  double norm = 0;
  double gradient = 0;  // worst parameter, by Euclidean norm

  void take_larger(const Deviation& other) {
    loss = std::max(loss, other.loss);
    norm = std::max(norm, other.norm);
    gradient = std::max(gradient, other.gradient);
  }
};

inline double norm_of(std::span<const float> values) {
  double squares = 0;
  for (const float value : values) squares += static_cast<double>(value) * value;
  return std::sqrt(squares);
}

// The rows of the reference's gradient that correspond to this rank's shard; the reference holds these,
// perhaps more.
inline std::span<const float> matching_rows(const Parameter& reference, const Parameter& shard) {
  const std::int64_t first = reference.local_rows().begin;
  return ConstTensorView(reference.gradient())
      .rows(shard.local_rows().begin - first, shard.local_rows().end - first)
      .values<float>();
}

inline Deviation deviation(const Trainer& run, const StepResult& result, const Trainer& reference,
                           const StepResult& reference_result, std::string* worst = nullptr) {
  run.synchronize();
  Deviation deviation;
  deviation.loss = std::abs(result.loss - reference_result.loss) / reference_result.loss;
  deviation.norm =
      std::abs(result.gradient_norm - reference_result.gradient_norm) / reference_result.gradient_norm;
  for (std::size_t i = 0; i < run.model.parameters().size(); ++i) {
    const Parameter& shard = *run.model.parameters()[i];
    const Parameter& whole = *reference.model.parameters()[i];
    const std::span<const float> actual = ConstTensorView(shard.gradient()).values<float>();
    const std::span<const float> expected = matching_rows(whole, shard);
    std::vector<float> difference(actual.size());
    std::ranges::transform(actual, expected, difference.begin(), std::minus<>());
    // Relative to the whole tensor: a shard's own norm may be zero (experts without tokens).
    const double share = norm_of(difference) / norm_of(ConstTensorView(whole.gradient()).values<float>());
    if (share > deviation.gradient) {
      deviation.gradient = share;
      if (worst != nullptr) *worst = shard.name();
    }
  }
  return deviation;
}

// Moves every weight by one unit in the last place, up or down.
inline void perturb(Model& model) {
  for (Parameter* parameter : model.parameters()) {
    float direction = 2.0F;
    for (float& value : parameter->mutable_value().values<float>()) {
      value = std::nextafter(value, direction * std::abs(value));
      direction = -direction;
    }
  }
}
inline void perturb(Trainer& trainer) { perturb(trainer.model); }

}  // namespace conclave::test
