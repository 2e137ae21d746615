#include "trainer/inspect/inspect_page.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "trainer/html/assets.h"
#include "trainer/inspect/token_text.h"

namespace conclave {
namespace {

using nlohmann::ordered_json;

// Thousandths: a page of many tokens stays small. NaN is 0.
std::int64_t thousandths(double weight) { return std::isfinite(weight) ? std::llround(1000 * weight) : 0; }

// The choices of each token by weight: chosen, weights [tokens * shown], -1 where there is none; for layers
// whose tokens may have more, how many more there are and their weight.
ordered_json choices_json(const LayerRouting& layer, std::int64_t tokens) {
  const std::int64_t shown = std::min(layer.places, kShownChoices);
  std::vector<std::int32_t> chosen;
  std::vector<std::int64_t> weights;
  std::vector<std::int64_t> more;
  std::vector<std::int64_t> more_weight;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const std::vector<Choice> choices = choices_of(layer, t);
    const auto count = static_cast<std::int64_t>(choices.size());
    for (std::int64_t k = 0; k < shown; ++k) {
      const bool is_there = k < count;
      chosen.push_back(is_there ? choices[static_cast<std::size_t>(k)].expert : -1);
      weights.push_back(is_there ? thousandths(choices[static_cast<std::size_t>(k)].weight) : 0);
    }
    double others = 0;
    for (std::int64_t k = shown; k < count; ++k) others += choices[static_cast<std::size_t>(k)].weight;
    more.push_back(std::max<std::int64_t>(count - shown, 0));
    more_weight.push_back(thousandths(others));
  }
  ordered_json json{{"shown", shown}, {"chosen", chosen}, {"weights", weights}};
  if (layer.places > shown) {
    json["more"] = more;
    json["more_weight"] = more_weight;
  }
  return json;
}

ordered_json or_null(const std::optional<double>& value) {
  return value ? ordered_json(*value) : ordered_json();
}

ordered_json layer_json(const LayerRouting& layer, const LayerSummary& summary, std::int64_t tokens) {
  ordered_json json{{"block", layer.block},
                    {"experts", layer.experts},
                    {"load", summary.load},
                    {"experts_per_token", static_cast<double>(summary.choices) /
                                              static_cast<double>(std::max<std::int64_t>(summary.tokens, 1))},
                    {"load_imbalance", summary.load_imbalance},
                    {"load_entropy", summary.load_entropy},
                    {"dead_experts", summary.dead_experts},
                    {"router_entropy", or_null(summary.router_entropy)},
                    {"entropy_histogram", summary.entropy_histogram},
                    {"by_token", or_null(summary.agreement_by_token)},
                    {"by_expert_before", or_null(summary.agreement_by_expert_before)},
                    {"by_source", summary.load_by_source}};
  if (!summary.load_by_class.empty()) json["by_class"] = summary.load_by_class;
  json.update(choices_json(layer, tokens));
  return json;
}

// Where the text changes its source.
ordered_json sections_json(const RoutingTrace& trace, std::int64_t tokens) {
  ordered_json sections = ordered_json::array();
  for (std::int64_t t = 0; t < tokens; ++t) {
    const auto i = static_cast<std::size_t>(t);
    if (t > 0 && trace.source_of_token[i] == trace.source_of_token[i - 1]) continue;
    sections.push_back(
        {{"name", trace.sources[static_cast<std::size_t>(trace.source_of_token[i])]}, {"first", t}});
  }
  return sections;
}

}  // namespace

html::Page inspect_page(const InspectPage& content) {
  const RoutingTrace& trace = content.trace;
  const std::int64_t tokens =
      content.shown_tokens > 0 ? std::min(content.shown_tokens, trace.size()) : trace.size();
  const auto shown = std::span(trace.tokens).first(static_cast<std::size_t>(tokens));
  ordered_json data{{"title", content.title},
                    {"facts", content.facts},
                    {"bytes", trace.tokens_are_bytes},
                    {"has_text", has_text(trace)},
                    {"tokens", page_texts(trace, tokens)},
                    {"ids", std::vector<std::int32_t>(shown.begin(), shown.end())},
                    {"sources", trace.sources},
                    {"sections", sections_json(trace, tokens)},
                    {"classes", kByteClassNames},
                    {"layers", ordered_json::array()}};
  for (std::size_t i = 0; i < trace.layers.size(); ++i)
    data["layers"].push_back(layer_json(trace.layers[i], content.summaries[i], tokens));
  if (content.evolution.steps.size() > 1)
    data["evolution"] = {{"steps", content.evolution.steps}, {"loads", content.evolution.loads}};
  return {.title = content.title,
          .data = data.dump(-1, ' ', false, ordered_json::error_handler_t::replace),
          .script = html::kInspectScript};
}

}  // namespace conclave
