// Decisions of a router that outlive the arena they were made in.
#pragma once

#include <cstdint>
#include <vector>

#include "layers/moe/routing.h"

namespace conclave {

class RoutingCopy {
 public:
  // Keeps its memory from one call to the next. Views of what was copied before are of no use any more.
  void assign(const Routing& routing) {
    const auto copied = [](auto& values, ConstTensorView from) {
      using Value = typename std::remove_reference_t<decltype(values)>::value_type;
      const auto source = from.elements() > 0 ? from.values<Value>() : std::span<const Value>();
      values.assign(source.begin(), source.end());
      return tensor_view(std::span<const Value>(values), from.shape());
    };
    routing_.experts = copied(experts_, routing.experts);
    routing_.weights = copied(weights_, routing.weights);
    routing_.entropy = routing.entropy.elements() > 0 ? copied(entropy_, routing.entropy) : ConstTensorView();
    is_empty_ = false;
  }
  void clear() { is_empty_ = true; }
  bool is_empty() const { return is_empty_; }
  const Routing& routing() const { return routing_; }

 private:
  std::vector<std::int32_t> experts_;  // [T, K]
  std::vector<float> weights_;         // [T, K]
  std::vector<float> entropy_;         // [T], or none
  Routing routing_;
  bool is_empty_ = true;
};

}  // namespace conclave
