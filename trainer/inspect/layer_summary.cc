#include "trainer/inspect/layer_summary.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "trainer/inspect/token_text.h"
#include "trainer/routing_summary.h"

namespace conclave {
namespace {

using Loads = std::vector<std::vector<std::int64_t>>;

Loads no_loads(std::size_t groups, std::int64_t experts) {
  return Loads(groups, std::vector<std::int64_t>(static_cast<std::size_t>(experts), 0));
}

void count_loads(const RoutingTrace& trace, const LayerRouting& layer, LayerSummary& summary) {
  summary.load.assign(static_cast<std::size_t>(layer.experts), 0);
  summary.load_by_source = no_loads(trace.sources.size(), layer.experts);
  if (trace.tokens_are_bytes) summary.load_by_class = no_loads(kByteClassNames.size(), layer.experts);
  const auto places = static_cast<std::size_t>(layer.places);
  for (std::size_t i = 0; i < layer.chosen.size(); ++i) {
    if (layer.chosen[i] == kNoExpert) continue;
    const auto expert = static_cast<std::size_t>(layer.chosen[i]);
    const std::size_t token = i / places;
    ++summary.load[expert];
    ++summary.load_by_source[static_cast<std::size_t>(trace.source_of_token[token])][expert];
    if (trace.tokens_are_bytes) {
      ++summary.load_by_class[static_cast<std::size_t>(byte_class(trace.tokens[token]))][expert];
    }
  }
  summary.choices = std::accumulate(summary.load.begin(), summary.load.end(), std::int64_t{0});
}

// Padding is no part of any mean.
void take_entropy(const RoutingTrace& trace, const LayerRouting& layer, LayerSummary& summary) {
  if (layer.entropy.empty()) return;
  summary.entropy_histogram.assign(kEntropyBins, 0);
  const double largest = std::log(static_cast<double>(layer.experts));
  double sum = 0;
  for (std::size_t t = 0; t < layer.entropy.size(); ++t) {
    if (trace.tokens[t] == kNoToken) continue;
    const float entropy = layer.entropy[t];
    sum += entropy;
    // A NaN (a diverged model) is in no bin.
    if (!(entropy >= 0)) continue;
    const double share = largest > 0 ? entropy / largest : 0.0;
    const auto bin = static_cast<std::int64_t>(share * kEntropyBins);
    ++summary.entropy_histogram[static_cast<std::size_t>(std::min(bin, kEntropyBins - 1))];
  }
  if (summary.tokens > 0) summary.router_entropy = sum / static_cast<double>(summary.tokens);
}

// The most frequent expert (ties: the lower id) once one occurrence of `without` is taken away.
std::int32_t usual_expert(const std::map<std::int32_t, std::int64_t>& counts, std::int32_t without) {
  std::int32_t usual = kNoExpert;
  std::int64_t most = 0;
  for (const auto& [expert, count] : counts) {
    const std::int64_t others = expert == without ? count - 1 : count;
    if (others > most) {
      most = others;
      usual = expert;
    }
  }
  return usual;
}

}  // namespace

std::vector<LayerSummary> summarise(const RoutingTrace& trace) {
  std::vector<LayerSummary> summaries;
  std::vector<std::int32_t> firsts_before;
  for (const LayerRouting& layer : trace.layers) {
    LayerSummary summary;
    summary.block = layer.block;
    summary.experts = layer.experts;
    summary.tokens = trace.size() - std::ranges::count(trace.tokens, kNoToken);
    count_loads(trace, layer, summary);
    take_entropy(trace, layer, summary);

    RoutingSummary alone;
    alone.layers.emplace_back().chosen_per_expert = summary.load;
    summary.load_imbalance = alone.load_imbalance().front();
    summary.load_entropy = alone.load_entropy();
    summary.dead_experts = std::ranges::count(summary.load, 0);

    std::vector<std::int32_t> firsts = first_experts(layer);
    summary.agreement_by_token = agreement(trace.tokens, firsts);
    if (!firsts_before.empty()) summary.agreement_by_expert_before = agreement(firsts_before, firsts);
    firsts_before = std::move(firsts);
    summaries.push_back(std::move(summary));
  }
  return summaries;
}

std::optional<double> agreement(std::span<const std::int32_t> keys, std::span<const std::int32_t> experts) {
  std::map<std::int32_t, std::map<std::int32_t, std::int64_t>> counts;  // key, expert
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (keys[i] >= 0 && experts[i] >= 0) ++counts[keys[i]][experts[i]];
  }
  std::int64_t guessed = 0;
  std::int64_t right = 0;
  for (const auto& [key, of_key] : counts) {
    for (const auto& [expert, count] : of_key) {
      const std::int32_t guess = usual_expert(of_key, expert);
      if (guess == kNoExpert) continue;
      guessed += count;
      if (guess == expert) right += count;
    }
  }
  if (guessed == 0) return std::nullopt;
  return static_cast<double>(right) / static_cast<double>(guessed);
}

}  // namespace conclave
