// What a trainer holds, flattened, for comparisons bit by bit.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "trainer/trainer.h"

namespace conclave::test {

// One tensor of every parameter: values or gradients of this rank.
template <class Tensor>
std::vector<float> all_of(Trainer& trainer, Tensor (Parameter::*tensor)() const) {
  trainer.synchronize();
  std::vector<float> all;
  for (const Parameter* parameter : trainer.model.parameters()) {
    const std::span<const float> values = ConstTensorView((parameter->*tensor)()).values<float>();
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

// What its routers keep beside their weights, as bytes: counts, biases and tables.
inline std::vector<std::byte> router_state(Trainer& trainer) {
  trainer.synchronize();
  std::vector<std::byte> all;
  for (const ShardedTensor& tensor : trainer.model.state()) {
    const auto* bytes = static_cast<const std::byte*>(tensor.local.raw());
    all.insert(all.end(), bytes,
               bytes + tensor.local.elements() * static_cast<std::int64_t>(size_of(tensor.local.dtype())));
  }
  return all;
}

}  // namespace conclave::test
