// Standard deviations of initial weights.
#pragma once

#include <cmath>

#include "configs/run.pb.h"

namespace conclave {

// Of projections that write into the residual stream: init_std / sqrt(2 layers), so that the
// variance of the stream does not grow with depth (Radford et al., "Language models are unsupervised
// multitask learners", 2019).
inline double residual_init_std(const config::Model& model) {
  return model.init_std() / std::sqrt(2.0 * static_cast<double>(model.layers()));
}

}  // namespace conclave
