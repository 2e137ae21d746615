// What an MoE layer counted since the trainer last looked. Local to the rank: the trainer adds up over ranks
// and micro-batches before it takes any ratio.
#pragma once

#include <cstdint>
#include <vector>

namespace conclave {

struct MoeStatistics {
  std::int64_t tokens = 0;                            // tokens routed, without padding
  std::vector<std::int64_t> chosen_per_expert = {};   // [E], before dropping
  std::vector<std::int64_t> chosen_per_choice = {};   // [K], before dropping: a place may stay empty
  std::vector<std::int64_t> dropped_per_choice = {};  // [K]
  // Kept choices that went to each rank of this rank's expert-parallel group [P], without rows that only fill
  // up an expert.
  std::vector<std::int64_t> sent_per_rank = {};
  double router_entropy_sum = 0;  // sum over tokens of -sum_e p ln p
  // This rank's share of the loss terms of one optimizer step, already divided by the tokens of the
  // global batch: the sum over ranks and micro-batches is the term. "Raw" is without its coefficient
  // (1 at perfect balance).
  double balance_loss_raw = 0;
  double z_loss_raw = 0;
  double importance_loss_raw = 0;  // 0 at perfect balance, and without the term
  double load_loss_raw = 0;
  double supervision_loss_raw = 0;
  // Of tokens whose source has experts (moe.router_supervision): how many there were, and how many of them
  // had one of those experts as their first choice.
  std::int64_t labelled_tokens = 0;
  std::int64_t labelled_hits = 0;

  void add(const MoeStatistics& other);
};

}  // namespace conclave
