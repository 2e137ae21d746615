// Arithmetic of a language model, by convention: what the mathematics asks for, whatever a program computes
// twice.
//
//   training  6 * active matrix parameters + 3 * attention forward     a token
//   attention forward, one layer: 2 S H hd a token if causal, else 4 S H hd  (scores and weighted sums, of
//             which a causal model needs half)
//
// Active matrix parameters are those a token is multiplied with: query, key, value and output projections,
// router, its top_k experts and the shared ones, or the dense feed-forward, and the head. The embedding is a
// look-up; norms and biases count as nothing. (Chowdhery et al., "PaLM", 2022, appendix B.)
#pragma once

#include <cstdint>

#include "configs/run.pb.h"

namespace conclave {

// `experiment` is resolved and has a language model.
struct ModelFlops {
  explicit ModelFlops(const config::Experiment& experiment);

  std::int64_t active_matrix_parameters = 0;
  double attention_forward = 0;  // a token, all layers
  // Of the active parameters: input projections of routed experts, which recomputing them repeats.
  std::int64_t expert_input_parameters = 0;
  std::int64_t head_parameters = 0;

  double training() const {
    return 6 * static_cast<double>(active_matrix_parameters) + 3 * attention_forward;
  }
  // What train.recompute adds.
  double recomputed(config::Train::Recompute recompute) const;
};

}  // namespace conclave
