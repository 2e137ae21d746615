#include "trainer/routing_summary.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>

#include "configs/moe_layers.h"

namespace conclave {
namespace {

std::int64_t total(std::span<const std::int64_t> counts) {
  return std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
}

// 1 where nothing was counted.
double largest_over_mean(std::span<const std::int64_t> counts) {
  const double mean = static_cast<double>(total(counts)) / static_cast<double>(counts.size());
  return mean > 0 ? static_cast<double>(std::ranges::max(counts)) / mean : 1.0;
}

// The counts of this rank's expert-parallel group [P] at the places of its ranks in the world, which are
// neighbours (comm/process_grid.h).
void append_by_world_rank(const std::vector<std::int64_t>& by_rank, const Communicator& world,
                          std::vector<std::int64_t>& counts) {
  const auto first_of_world = static_cast<std::ptrdiff_t>(counts.size());
  const auto ranks = static_cast<std::ptrdiff_t>(by_rank.size());
  counts.resize(counts.size() + static_cast<std::size_t>(world.size()), 0);
  std::ranges::copy(by_rank, counts.begin() + first_of_world + world.rank() / ranks * ranks);
}

template <class Value>
double mean_over_layers(const std::vector<MoeStatistics>& layers, Value value) {
  double sum = 0;
  for (const MoeStatistics& layer : layers) sum += value(layer);
  return layers.empty() ? 0.0 : sum / static_cast<double>(layers.size());
}

// The counts of one layer, one after the other, so that all layers travel in one all_reduce.
void pack(const MoeStatistics& layer, std::vector<std::int64_t>& counts) {
  counts.insert(counts.end(), {layer.tokens, layer.labelled_tokens, layer.labelled_hits});
  counts.insert(counts.end(), layer.chosen_per_expert.begin(), layer.chosen_per_expert.end());
  counts.insert(counts.end(), layer.chosen_per_choice.begin(), layer.chosen_per_choice.end());
  counts.insert(counts.end(), layer.dropped_per_choice.begin(), layer.dropped_per_choice.end());
}

// The next layer of such a row: of `layer`, which has the right sizes, every count.
void unpack(std::vector<std::int64_t>::const_iterator& counts, MoeStatistics& layer) {
  for (std::int64_t* count : {&layer.tokens, &layer.labelled_tokens, &layer.labelled_hits})
    *count = *counts++;
  for (std::int64_t& count : layer.chosen_per_expert) count = *counts++;
  for (std::int64_t& count : layer.chosen_per_choice) count = *counts++;
  for (std::int64_t& count : layer.dropped_per_choice) count = *counts++;
}

}  // namespace

RoutingSummary take_routing_summary(const Model& model, Communicator& world) {
  RoutingSummary summary;
  const auto& moe_layers = model.moe_layers();
  if (moe_layers.empty()) return summary;

  std::vector<std::int64_t> counts;
  std::vector<std::int64_t> received;  // [layers * world size], by every rank
  std::vector<double> sums;
  for (const auto& [block, layer] : moe_layers) {
    summary.blocks.push_back(block);
    summary.layers.push_back(layer->take_statistics());
    const MoeStatistics& local = summary.layers.back();
    pack(local, counts);
    append_by_world_rank(local.sent_per_rank, world, received);
    sums.insert(sums.end(), {local.router_entropy_sum, local.balance_loss_raw, local.z_loss_raw,
                             local.importance_loss_raw, local.load_loss_raw, local.supervision_loss_raw});
  }
  world.all_reduce(buffer_view(std::span<std::int64_t>(counts)));
  world.all_reduce(buffer_view(std::span<std::int64_t>(received)));
  world.all_reduce(buffer_view(std::span<double>(sums)));

  auto count = counts.cbegin();
  auto sum = sums.cbegin();
  for (std::size_t i = 0; i < summary.layers.size(); ++i) {
    MoeStatistics& layer = summary.layers[i];
    unpack(count, layer);
    layer.router_entropy_sum = *sum++;
    layer.balance_loss_raw = *sum++;
    layer.z_loss_raw = *sum++;
    layer.importance_loss_raw = *sum++;
    layer.load_loss_raw = *sum++;
    layer.supervision_loss_raw = *sum++;
    const auto ranks = static_cast<std::size_t>(world.size());
    summary.rank_imbalance.push_back(largest_over_mean(std::span(received).subspan(i * ranks, ranks)));
  }
  return summary;
}

std::vector<double> RoutingSummary::load_imbalance() const {
  std::vector<double> imbalance;
  for (const MoeStatistics& layer : layers) {
    imbalance.push_back(largest_over_mean(layer.chosen_per_expert));
  }
  return imbalance;
}

double RoutingSummary::dead_experts() const {
  double dead = 0;
  double experts = 0;
  for (const MoeStatistics& layer : layers) {
    dead += static_cast<double>(std::ranges::count(layer.chosen_per_expert, 0));
    experts += static_cast<double>(layer.chosen_per_expert.size());
  }
  return experts > 0 ? dead / experts : 0.0;
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
  std::vector<double> dropped;
  std::vector<double> chosen;
  for (const MoeStatistics& layer : layers) {
    const std::size_t top_k = layer.dropped_per_choice.size();
    dropped.resize(std::max(dropped.size(), top_k), 0.0);
    chosen.resize(dropped.size(), 0.0);
    for (std::size_t k = 0; k < top_k; ++k) {
      dropped[k] += static_cast<double>(layer.dropped_per_choice[k]);
      chosen[k] += static_cast<double>(layer.chosen_per_choice[k]);
    }
  }
  for (std::size_t k = 0; k < dropped.size(); ++k) dropped[k] = chosen[k] > 0 ? dropped[k] / chosen[k] : 0.0;
  return dropped;
}

double RoutingSummary::balance_loss_raw() const {
  double sum = 0;
  for (const MoeStatistics& layer : layers) sum += layer.balance_loss_raw;
  return sum;
}

double RoutingSummary::balance_loss(const config::Experiment& experiment) const {
  double sum = 0;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    sum += config::moe_of_layer(experiment, blocks[i]).balance_loss() * layers[i].balance_loss_raw;
  }
  return sum;
}

double RoutingSummary::z_loss(const config::Experiment& experiment) const {
  double sum = 0;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    sum += config::moe_of_layer(experiment, blocks[i]).z_loss() * layers[i].z_loss_raw;
  }
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

double RoutingSummary::supervision_loss(const config::Experiment& experiment) const {
  double sum = 0;
  for (const MoeStatistics& layer : layers) sum += layer.supervision_loss_raw;
  return experiment.moe().router_supervision().weight() * sum;
}

}  // namespace conclave
