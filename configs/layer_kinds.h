// The kinds of MoE layers that moe and moe.layers describe, as rules look at them.
#pragma once

#include <string>
#include <vector>

#include "configs/run.pb.h"

namespace conclave::config {

struct LayerKind {
  Moe moe;             // with what moe.layers changes; what follows from the router isn't filled in
  std::string prefix;  // "moe", or "moe.layers.0"

  // Where a value of these layers stands: "moe.layers.0.top_k", but "moe.jitter", which all layers share.
  std::string at(const std::string& key) const;
};

// moe itself first, then each entry of moe.layers.
std::vector<LayerKind> layer_kinds(const Experiment& experiment);

}  // namespace conclave::config
