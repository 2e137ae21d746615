// What is recorded of a run. The names are those of metrics.jsonl and of the TensorBoard tags.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace conclave {

// One optimizer step, or the mean over the steps since the last record where a field says so. Over all ranks.
struct StepRecord {
  std::int64_t step = 0;        // optimizer steps taken
  std::int64_t tokens = 0;      // trained on since the start of the run
  double loss = 0;              // cross-entropy, nats a token
  double balance_loss = 0;      // load-balance term as it is added to the loss
  double balance_loss_raw = 0;  // without moe.balance_loss: 1 a layer at perfect balance
  double z_loss = 0;            // z term as it is added to the loss
  double importance_loss = 0;   // noisy_top_k's terms as they are added to the loss; not written where 0
  double load_loss = 0;
  double supervision_loss = 0;  // router supervision as it is added to the loss
  double lr = 0;
  double grad_norm = 0;  // before clipping
  double step_ms = 0;    // mean since the last record
  double tokens_per_second = 0;
  double load_imbalance = 0;       // busiest expert / mean, the worst MoE layer; 1 is perfect
  double dropped_fraction = 0;     // of all choices
  double exchange_fraction = 0;    // of the step's time, in exchanges, waiting included
  double imbalance_tax = 0;        // share of the step's time that uneven experts cost (time_use.h)
  double dead_experts = 0;         // share of (layer, expert) pairs that no token chose
  double load_entropy = 0;         // of the expert load, / ln E, mean over layers; 1 is perfect
  double router_entropy = 0;       // of the tokens' probabilities, nats, mean
  double rank_imbalance = 0;       // rows of the busiest rank / mean
  std::int64_t skipped_steps = 0;  // with a non-finite loss or gradient, since the start
  std::int64_t failed_saves = 0;   // checkpoints that could not be written, since the start
  std::int64_t memory_bytes = 0;   // resident, of the largest rank
  bool force_balanced = false;     // moe.force_balanced: the router chose nothing

  std::vector<std::pair<std::string, double>> time_shares;  // what the steps' time went into (time_use.h)
  std::vector<double> load_imbalance_by_layer;              // [MoE layers]
  std::vector<double> dropped_by_layer;                     // [MoE layers] share of the layer's choices
  std::vector<double> dropped_by_choice;                    // [K] share of each choice's rows
  std::vector<std::vector<std::int64_t>> expert_load;  // [MoE layers][E] choices of the expert, before drops
};

struct SourceEvaluation {
  std::string source;
  double eval_loss = 0;  // nats a token
  double bits_per_byte = 0;
  std::optional<double> router_accuracy = {};  // where the source has experts of its own
};

// One pass over the held-out split.
struct EvaluationRecord {
  std::int64_t step = 0;
  double eval_loss = 0;  // nats a token, over all sources
  double bits_per_byte = 0;
  bool tokens_are_bytes = true;  // bits_per_byte has a meaning
  bool masked = false;           // ... of the bytes that were masked, the only ones that are predicted
  // Of a regression: of the mixture's mean, and of each sample's most probable expert.
  std::optional<double> mean_squared_error = {};
  std::optional<double> best_mean_squared_error = {};
  std::optional<double> router_accuracy = {};  // over the sources that have experts of their own
  bool force_balanced = false;
  std::vector<SourceEvaluation> by_source;
};

}  // namespace conclave
