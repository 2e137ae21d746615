// What the routers of a model keep beside their weights.
#pragma once

#include <cstddef>
#include <vector>

#include "trainer/trainer.h"

namespace conclave::test {

// Its bytes, of whatever type: counts, biases and tables.
inline std::vector<std::byte> router_state(Trainer& trainer) {
  std::vector<std::byte> all;
  for (const ShardedTensor& tensor : trainer.model.state()) {
    const auto* bytes = static_cast<const std::byte*>(tensor.local.raw());
    all.insert(all.end(), bytes,
               bytes + tensor.local.elements() * static_cast<std::int64_t>(size_of(tensor.local.dtype())));
  }
  return all;
}

}  // namespace conclave::test
