// How many parameters a model has, from its configuration alone: nothing is built.
#pragma once

#include <cstdint>

#include "configs/run.pb.h"

namespace conclave {

// Of the whole model, every expert once.
struct ParameterCount {
  std::int64_t total = 0;
  // That one token passes: top_k of the routed experts and all the rest, as papers count it ("8x7B has 46.7
  // billion parameters, 12.9 of them active").
  std::int64_t active = 0;
};

// `experiment` is resolved (configs/resolve.h).
ParameterCount count_parameters(const config::Experiment& experiment);

}  // namespace conclave
