#include "trainer/inspect/inspect_json.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "trainer/inspect/token_text.h"

namespace conclave {
namespace {

using nlohmann::ordered_json;

std::string dumped(const ordered_json& json) {
  return json.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

ordered_json or_null(const std::optional<double>& value) {
  return value ? ordered_json(*value) : ordered_json();
}

ordered_json layer_json(const LayerSummary& layer) {
  return {{"layer", layer.block},
          {"experts", layer.experts},
          {"load", layer.load},
          {"load_imbalance", layer.load_imbalance},
          {"load_entropy", layer.load_entropy},
          {"dead_experts", layer.dead_experts},
          {"router_entropy", or_null(layer.router_entropy)},
          {"entropy_histogram", layer.entropy_histogram},
          {"agreement_by_token", or_null(layer.agreement_by_token)},
          {"agreement_by_expert_before", or_null(layer.agreement_by_expert_before)},
          {"load_by_source", layer.load_by_source},
          {"load_by_class", layer.load_by_class}};
}

ordered_json token_json(const RoutingTrace& trace, std::int64_t token) {
  const auto i = static_cast<std::size_t>(token);
  ordered_json layers = ordered_json::array();
  for (const LayerRouting& layer : trace.layers) {
    ordered_json choices = ordered_json::array();
    // Six digits say all that an fp32 weight does. What is not finite is null.
    for (const Choice& choice : choices_of(layer, token))
      choices.push_back({choice.expert, std::round(1e6 * choice.weight) / 1e6});
    layers.push_back(std::move(choices));
  }
  return {{"id", trace.tokens[i]},
          {"text", token_label(trace, trace.tokens[i])},
          {"source", trace.sources[static_cast<std::size_t>(trace.source_of_token[i])]},
          {"layers", std::move(layers)}};
}

}  // namespace

std::string inspect_json(const std::string& title, const RoutingTrace& trace,
                         const std::vector<LayerSummary>& summaries, std::int64_t max_tokens) {
  ordered_json layers = ordered_json::array();
  for (const LayerSummary& layer : summaries) layers.push_back(layer_json(layer));
  std::string text = "{\"title\":" + dumped(title) + ",\n\"layers\":" + dumped(layers) + ",\n\"tokens\":[";
  const std::int64_t tokens = max_tokens > 0 ? std::min(max_tokens, trace.size()) : trace.size();
  for (std::int64_t token = 0; token < tokens; ++token)
    text += (token > 0 ? ",\n" : "\n") + dumped(token_json(trace, token));
  return text + "\n]}";
}

}  // namespace conclave
