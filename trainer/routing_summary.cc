#include "trainer/routing_summary.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace conclave {
namespace {

std::int64_t total(const std::vector<std::int64_t>& counts) {
  return std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
}

template <class Value>
double mean_over_layers(const std::vector<MoeStatistics>& layers, Value value) {
  double sum = 0;
  for (const MoeStatistics& layer : layers) sum += value(layer);
  return layers.empty() ? 0.0 : sum / static_cast<double>(layers.size());
}

// The counts of one layer in a flat row, so that all layers travel in one all_reduce.
std::vector<std::int64_t> packed_counts(const MoeStatistics& layer, std::int64_t experts,
                                        std::int64_t top_k) {
  std::vector<std::int64_t> counts = {layer.tokens, layer.received_rows};
  counts.insert(counts.end(), layer.chosen_per_expert.begin(), layer.chosen_per_expert.end());
  counts.resize(static_cast<std::size_t>(2 + experts), 0);
  counts.insert(counts.end(), layer.dropped_per_choice.begin(), layer.dropped_per_choice.end());
  counts.resize(static_cast<std::size_t>(2 + experts + top_k), 0);
  return counts;
}

}  // namespace

RoutingSummary take_routing_summary(const Model& model, Communicator& world) {
  RoutingSummary summary;
  const auto& moe_layers = model.moe_layers();
  if (moe_layers.empty()) return summary;
  const std::int64_t experts = moe_layers.front().layer->experts();
  const std::int64_t top_k = moe_layers.front().layer->top_k();
  const auto count = static_cast<std::int64_t>(moe_layers.size());

  std::vector<std::int64_t> counts;
  std::vector<std::int64_t> most_rows;  // received by one rank
  std::vector<double> sums;
  for (const auto& [block, layer] : moe_layers) {
    const MoeStatistics local = layer->take_statistics();
    const auto packed = packed_counts(local, experts, top_k);
    counts.insert(counts.end(), packed.begin(), packed.end());
    most_rows.push_back(local.received_rows);
    sums.insert(sums.end(), {local.router_entropy_sum, local.balance_loss_raw, local.z_loss_raw,
                             local.importance_loss_raw, local.load_loss_raw});
  }
  world.all_reduce(buffer_view(std::span<std::int64_t>(counts)));
  world.all_reduce(buffer_view(std::span<std::int64_t>(most_rows)), ReduceOp::kMax);
  world.all_reduce(buffer_view(std::span<double>(sums)));

  const auto row = static_cast<std::size_t>(2 + experts + top_k);
  for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
    const auto begin = counts.begin() + static_cast<std::ptrdiff_t>(i * row);
    MoeStatistics layer;
    layer.tokens = begin[0];
    layer.received_rows = begin[1];
    layer.chosen_per_expert.assign(begin + 2, begin + 2 + experts);
    layer.dropped_per_choice.assign(begin + 2 + experts, begin + static_cast<std::ptrdiff_t>(row));
    layer.router_entropy_sum = sums[5 * i];
    layer.balance_loss_raw = sums[5 * i + 1];
    layer.z_loss_raw = sums[5 * i + 2];
    layer.importance_loss_raw = sums[5 * i + 3];
    layer.load_loss_raw = sums[5 * i + 4];
    const double mean_rows = static_cast<double>(layer.received_rows) / world.size();
    summary.rank_imbalance.push_back(mean_rows > 0 ? static_cast<double>(most_rows[i]) / mean_rows : 1.0);
    summary.blocks.push_back(moe_layers[i].block);
    summary.layers.push_back(std::move(layer));
  }
  return summary;
}

std::vector<double> RoutingSummary::load_imbalance() const {
  std::vector<double> imbalance;
  for (const MoeStatistics& layer : layers) {
    const auto& chosen = layer.chosen_per_expert;
    const double mean = static_cast<double>(total(chosen)) / static_cast<double>(chosen.size());
    imbalance.push_back(mean > 0 ? static_cast<double>(*std::ranges::max_element(chosen)) / mean : 1.0);
  }
  return imbalance;
}

double RoutingSummary::dead_experts() const {
  return mean_over_layers(layers, [](const MoeStatistics& layer) {
    const auto dead = static_cast<double>(std::ranges::count(layer.chosen_per_expert, 0));
    return dead / static_cast<double>(layer.chosen_per_expert.size());
  });
}

double RoutingSummary::load_entropy() const {
  return mean_over_layers(layers, [](const MoeStatistics& layer) {
    const auto& chosen = layer.chosen_per_expert;
    const auto choices = static_cast<double>(total(chosen));
    if (chosen.size() < 2 || choices == 0) return 1.0;
    double entropy = 0;
    for (const std::int64_t count : chosen) {
      const double share = static_cast<double>(count) / choices;
      if (count > 0) entropy -= share * std::log(share);
    }
    return entropy / std::log(static_cast<double>(chosen.size()));
  });
}

double RoutingSummary::router_entropy() const {
  return mean_over_layers(layers, [](const MoeStatistics& layer) {
    return layer.tokens > 0 ? layer.router_entropy_sum / static_cast<double>(layer.tokens) : 0.0;
  });
}

double RoutingSummary::dropped_fraction() const {
  std::int64_t dropped = 0;
  std::int64_t choices = 0;
  for (const MoeStatistics& layer : layers) {
    dropped += total(layer.dropped_per_choice);
    choices += total(layer.chosen_per_expert);
  }
  return choices > 0 ? static_cast<double>(dropped) / static_cast<double>(choices) : 0.0;
}

std::vector<double> RoutingSummary::dropped_fraction_by_layer() const {
  std::vector<double> fractions;
  for (const MoeStatistics& layer : layers) {
    const auto choices = static_cast<double>(total(layer.chosen_per_expert));
    fractions.push_back(choices > 0 ? static_cast<double>(total(layer.dropped_per_choice)) / choices : 0.0);
  }
  return fractions;
}

std::vector<double> RoutingSummary::dropped_fraction_by_choice() const {
  std::vector<double> fractions;
  std::int64_t tokens = 0;
  for (const MoeStatistics& layer : layers) {
    tokens += layer.tokens;
    fractions.resize(layer.dropped_per_choice.size(), 0.0);
    for (std::size_t k = 0; k < fractions.size(); ++k)
      fractions[k] += static_cast<double>(layer.dropped_per_choice[k]);
  }
  for (double& fraction : fractions) fraction = tokens > 0 ? fraction / static_cast<double>(tokens) : 0.0;
  return fractions;
}

double RoutingSummary::balance_loss_raw() const {
  double sum = 0;
  for (const MoeStatistics& layer : layers) sum += layer.balance_loss_raw;
  return sum;
}

double RoutingSummary::z_loss_raw() const {
  double sum = 0;
  for (const MoeStatistics& layer : layers) sum += layer.z_loss_raw;
  return sum;
}

double RoutingSummary::importance_loss_raw() const {
  double sum = 0;
  for (const MoeStatistics& layer : layers) sum += layer.importance_loss_raw;
  return sum;
}

double RoutingSummary::load_loss_raw() const {
  double sum = 0;
  for (const MoeStatistics& layer : layers) sum += layer.load_loss_raw;
  return sum;
}

}  // namespace conclave
