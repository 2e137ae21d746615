#include "layers/moe/statistics.h"

#include <algorithm>

namespace conclave {
namespace {

void add_counts(std::vector<std::int64_t>& sums, const std::vector<std::int64_t>& counts) {
  sums.resize(std::max(sums.size(), counts.size()), 0);
  for (std::size_t i = 0; i < counts.size(); ++i) sums[i] += counts[i];
}

}  // namespace

void MoeStatistics::add(const MoeStatistics& other) {
  tokens += other.tokens;
  add_counts(chosen_per_expert, other.chosen_per_expert);
  add_counts(chosen_per_choice, other.chosen_per_choice);
  add_counts(dropped_per_choice, other.dropped_per_choice);
  add_counts(sent_per_rank, other.sent_per_rank);
  router_entropy_sum += other.router_entropy_sum;
  balance_loss_raw += other.balance_loss_raw;
  z_loss_raw += other.z_loss_raw;
  importance_loss_raw += other.importance_loss_raw;
  load_loss_raw += other.load_loss_raw;
  supervision_loss_raw += other.supervision_loss_raw;
  labelled_tokens += other.labelled_tokens;
  labelled_hits += other.labelled_hits;
}

}  // namespace conclave
