// What the trainer asks of anything that sends tokens to experts, whatever else it computes.
#pragma once

#include <cstdint>

#include "layers/moe/routing.h"
#include "layers/moe/statistics.h"

namespace conclave {

class RoutedLayer {
 public:
  virtual ~RoutedLayer() = default;

  // What this rank counted in all forwards since the statistics were last taken. This, taking them, and
  // looking at the last routing wait for the GPU, if one computes.
  virtual const MoeStatistics& statistics() = 0;
  // Returns the statistics and goes on counting from `next`: from nothing, or from counts
  // that were set aside.
  virtual MoeStatistics take_statistics(MoeStatistics next) = 0;
  MoeStatistics take_statistics() { return take_statistics({}); }

  virtual std::int64_t experts() const = 0;
  virtual std::int64_t top_k() const = 0;

  // The choices of the last forward, training or not; valid until ctx.arena is reset. Where train.recompute:
  // block gives the memory of a forward back earlier, they are kept in training if log.routing asks for them.
  virtual const Routing& last_routing() const = 0;
};

}  // namespace conclave
