#include "configs/layer_kinds.h"

#include <fmt/format.h>

#include "configs/moe_layers.h"

namespace conclave::config {

std::string LayerKind::at(const std::string& key) const {
  const bool is_of_layer = MoeLayers::descriptor()->FindFieldByName(key) != nullptr;
  return (is_of_layer ? prefix : "moe") + "." + key;
}

std::vector<LayerKind> layer_kinds(const Experiment& experiment) {
  const Moe& moe = experiment.moe();
  std::vector<LayerKind> kinds = {{moe, "moe"}};
  for (int i = 0; i < moe.layers_size(); ++i)
    kinds.push_back({overridden(moe, moe.layers(i)), fmt::format("moe.layers.{}", i)});
  return kinds;
}

}  // namespace conclave::config
