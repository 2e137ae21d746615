// What the MoE layers counted, added up over all ranks before any ratio is taken.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/communicator.h"
#include "layers/model/model.h"
#include "layers/moe/statistics.h"

namespace conclave {

struct RoutingSummary {
  std::vector<std::int64_t> blocks;    // the block of each MoE layer
  std::vector<MoeStatistics> layers;   // sums over all ranks
  std::vector<double> rank_imbalance;  // per layer: max / mean kept choices received by a rank

  // c[e] / mean c at its largest, per layer (1 = even); 1 for a layer without tokens.
  std::vector<double> load_imbalance() const;
  // Share of all (layer, expert) pairs that no token chose.
  double dead_experts() const;
  // -sum_e f ln f / ln E, mean over layers (1 = even).
  double load_entropy() const;
  // Mean entropy of a token's router distribution in nats, mean over layers.
  double router_entropy() const;
  // Dropped choices / choices over all layers; of each layer; of each layer's choice k, [the largest top_k].
  // A place without an expert is no choice.
  double dropped_fraction() const;
  std::vector<double> dropped_fraction_by_layer() const;
  std::vector<double> dropped_fraction_by_choice() const;
  // Sums over layers of terms without their coefficients; of all steps that were counted.
  double balance_loss_raw() const;
  double importance_loss_raw() const;
  double load_loss_raw() const;
  // Sums over layers of the terms with each layer's coefficients, of all steps that were counted.
  double balance_loss(const config::Experiment& experiment) const;
  double z_loss(const config::Experiment& experiment) const;
  double supervision_loss(const config::Experiment& experiment) const;
};

// Collective: sums the statistics of all ranks and resets them.
RoutingSummary take_routing_summary(const Model& model, Communicator& world);

}  // namespace conclave
