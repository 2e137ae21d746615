// What the routing of many tokens amounts to, by MoE layer.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "trainer/inspect/routing_trace.h"

namespace conclave {

struct LayerSummary {
  std::int64_t block = 0;
  std::int64_t experts = 0;        // E
  std::int64_t tokens = 0;         // T without padding
  std::int64_t choices = 0;        // sum of the loads; K T where every token takes K experts
  std::vector<std::int64_t> load;  // [E] choices of each expert
  double load_imbalance = 1;       // largest load / mean
  double load_entropy = 1;         // -sum_e f ln f / ln E; 1 is even
  std::int64_t dead_experts = 0;   // that no token chose

  std::optional<double> router_entropy;  // nats, mean over tokens; nothing where it isn't known
  std::vector<std::int64_t>
      entropy_histogram;  // tokens by router entropy, kEntropyBins of [0, ln E]; or empty

  // How often the first expert of a token is the one to be guessed from its id alone, or from its first
  // expert in the MoE layer before (see agreement()). Nothing where nothing can be guessed.
  std::optional<double> agreement_by_token;
  std::optional<double> agreement_by_expert_before;

  std::vector<std::vector<std::int64_t>> load_by_source;  // [sources][E]
  std::vector<std::vector<std::int64_t>> load_by_class;   // [byte classes][E]; empty unless tokens are bytes
};

inline constexpr std::int64_t kEntropyBins = 20;

std::vector<LayerSummary> summarise(const RoutingTrace& trace);

// The share of places i at which experts[i] is the expert that the other places with keys[i] hold most often
// (ties: the lower id). Places with a negative key or expert, or whose key occurs once, are left out; nothing
// if none is left. By this leaving out of the place itself, chance doesn't look like a rule.
std::optional<double> agreement(std::span<const std::int32_t> keys, std::span<const std::int32_t> experts);

}  // namespace conclave
