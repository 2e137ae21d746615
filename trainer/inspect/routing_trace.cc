#include "trainer/inspect/routing_trace.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "comm/base/error.h"
#include "trainer/evaluation_report.h"

namespace conclave {
namespace {

// A diverged model has NaN weights: they come last.
float rank_of(float weight) { return std::isnan(weight) ? -std::numeric_limits<float>::infinity() : weight; }

template <class T>
void append(std::vector<T>& all, std::span<const T> values) {
  all.insert(all.end(), values.begin(), values.end());
}

}  // namespace

std::vector<Choice> choices_of(const LayerRouting& layer, std::int64_t token) {
  std::vector<Choice> choices;
  for (std::int64_t place = 0; place < layer.places; ++place) {
    const auto i = static_cast<std::size_t>(token * layer.places + place);
    if (layer.chosen[i] != kNoExpert) choices.push_back({layer.chosen[i], layer.weights[i]});
  }
  std::ranges::stable_sort(
      choices, [](const Choice& a, const Choice& b) { return rank_of(a.weight) > rank_of(b.weight); });
  return choices;
}

std::vector<std::int32_t> first_experts(const LayerRouting& layer) {
  std::vector<std::int32_t> firsts;
  const auto tokens = static_cast<std::int64_t>(layer.chosen.size()) / layer.places;
  for (std::int64_t token = 0; token < tokens; ++token) {
    const std::vector<Choice> choices = choices_of(layer, token);
    firsts.push_back(choices.empty() ? kNoExpert : choices.front().expert);
  }
  return firsts;
}

RoutingTrace empty_trace(const Model& model, const config::Experiment& experiment) {
  RoutingTrace trace;
  trace.tokens_are_bytes = tokens_are_bytes(experiment);
  trace.tokenizer_file = experiment.data().tokenizer_file();
  for (const auto& [block, layer] : model.moe_layers()) {
    LayerRouting& routing = trace.layers.emplace_back();
    routing.block = block;
    routing.experts = layer->experts();
    routing.places = layer->top_k();
  }
  return trace;
}

void append_last_forward(const Model& model, std::span<const std::int32_t> tokens, std::int32_t source,
                         RoutingTrace& trace) {
  append(trace.tokens, tokens);
  trace.source_of_token.resize(trace.tokens.size(), source);
  for (std::size_t i = 0; i < trace.layers.size(); ++i) {
    const Routing& routing = model.moe_layers()[i].layer->last_routing();
    CONCLAVE_CHECK_EQ(routing.experts.extent(0), static_cast<std::int64_t>(tokens.size()),
                      "tokens of the model's last forward");
    LayerRouting& layer = trace.layers[i];
    layer.places = routing.experts.extent(1);  // top_k, or E where a token may take any number
    append(layer.chosen, routing.experts.values<std::int32_t>());
    append(layer.weights, routing.weights.values<float>());
    if (routing.entropy.elements() > 0) append(layer.entropy, routing.entropy.values<float>());
  }
}

}  // namespace conclave
