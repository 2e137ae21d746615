// The kernels of the MoE layer's own bookkeeping: who goes where, counts, balance terms. As in
// layers/cuda/kernels.h: plain functions that enqueue them, bare pointers into a GPU's memory. T tokens, K
// choices of each, E experts, R rows.
#pragma once

#include <cstdint>

#include "comm/cuda/stream.h"
#include "layers/cuda/kernels.h"

namespace conclave::cuda {

// No expert, no row, no choice (kNoExpert, DispatchPlan::kDropped, DispatchPlan::kNoChoice).
inline constexpr std::int32_t kNone = -1;

// layers/moe/dispatch_plan.h on a GPU: the same rows for the same choices.
enum class DropOrder : std::uint8_t { kPosition, kProbability, kBatchPrioritized };
struct DispatchPlanProblem {
  std::int64_t tokens = 0;
  std::int64_t top_k = 0;
  std::int64_t experts = 0;
  std::int64_t capacity = 0;         // rows that an expert takes at most
  std::int64_t rows_per_expert = 0;  // above 0: what every expert is filled up to
  DropOrder drop = DropOrder::kPosition;
  const std::int32_t* chosen = nullptr;  // [T, K]; -1 for an empty place
  const float* weights = nullptr;        // [T, K]

  std::int64_t rows = 0;                   // R, no less than there will be
  std::int64_t* expert_offsets = nullptr;  // [E + 1] (=)
  std::int32_t* choice_of_row = nullptr;   // [R] (=); -1 for rows of no choice, and those beyond the last
  std::int32_t* row_of_choice = nullptr;   // [T K] (=); -1 where there is none
  std::int32_t* scratch = nullptr;         // dispatch_plan_scratch() of them
};
// int32 elements; 8-byte aligned.
std::int64_t dispatch_plan_scratch(const DispatchPlanProblem& problem);
void make_dispatch_plan(StreamHandle stream, const DispatchPlanProblem& problem);

// Where a plan's choices are counted: added to. Choices from `places` on are in the counts by expert alone.
struct DispatchCounts {
  std::int64_t places = 0;                     // [K] below; a router may make more of a token's choices
  std::int64_t* chosen_per_expert = nullptr;   // [E]
  std::int64_t* kept_per_expert = nullptr;     // [E]
  std::int64_t* chosen_per_choice = nullptr;   // [K]
  std::int64_t* dropped_per_choice = nullptr;  // [K]
};
void count_dispatched(StreamHandle stream, const std::int32_t* chosen, const std::int32_t* row_of_choice,
                      std::int64_t T, std::int64_t K, const DispatchCounts& counts);

// counts [G, E] += the choices of each group of `choices_a_group`, empty places left out; `count` in all.
void count_choices(StreamHandle stream, const std::int32_t* chosen, std::int64_t count,
                   std::int64_t choices_a_group, std::int64_t E, std::int64_t* counts);

// Of layers/moe/balance_loss.cc. counts [G, E] -> df [G, E] = E f / tokens and dprobabilities [G, E] = alpha
// df.
void balance_gradient(StreamHandle stream, const std::int64_t* counts, double alpha, double tokens,
                      std::int64_t G, std::int64_t E, double* df, float* dprobabilities);
// terms [T] = sum over e of df[g, e] p[t, e], g the group of tokens_a_group tokens.
void balance_terms(StreamHandle stream, const float* probabilities, const double* df,
                   std::int64_t tokens_a_group, std::int64_t T, std::int64_t E, double* terms);
// sums [E] += counts, from 0 if `is_first`; counts become the sums.
void accumulate_counts(StreamHandle stream, std::int64_t* counts, std::int64_t* sums, bool is_first,
                       std::int64_t E);

// Of layers/moe/router. padding [T], 1 for padding: its rows [T, width] become 0, its experts [T, K] -1;
// `chosen` and `experts` may be the same.
void clear_padding(StreamHandle stream, const std::uint8_t* padding, float* rows, std::int64_t T,
                   std::int64_t width);
void without_padding(StreamHandle stream, const std::uint8_t* padding, const std::int32_t* chosen,
                     std::int32_t* experts, std::int64_t T, std::int64_t K);
// to [T, D] = from (1 + noise); they may be the same.
void input_jitter(StreamHandle stream, RandomKey random, std::int64_t first_token, float jitter,
                  const float* from, float* to, std::int64_t T, std::int64_t D);
// layers/moe/router/forced_balance.h; `first` is the number of the first choice.
void deal_in_turn(StreamHandle stream, const float* scores, std::int64_t first, bool normalize, float scale,
                  std::int32_t* experts, float* weights, std::int64_t T, std::int64_t E, std::int64_t K);
// Of the two chosen experts of each token: no padding, and of the second ones those whose uniform number of
// the run is below 2 weight / scale, or all; 0 in the places of the others. padding may be null.
void keep_second_choices(StreamHandle stream, RandomKey random, std::int64_t first_token, bool keeps_all,
                         float scale, const std::uint8_t* padding, const std::int32_t* chosen,
                         const float* chosen_weights, std::int32_t* experts, float* weights, std::int64_t T);
// experts [T, K]: those of the token's id in table [V, K], all with `weight`; padding, which may be null, has
// none.
void look_up_experts(StreamHandle stream, const std::int32_t* table, const std::int32_t* ids,
                     const std::uint8_t* padding, float weight, std::int32_t* experts, float* weights,
                     std::int64_t T, std::int64_t K);

// Of layers/moe/router/noisy_top_k_router.cc, all [T E]; `first_index` is that of the first element's noise.
struct NoisyLogits {
  const float* clean;
  const float* spread;
  float* noise;
  float* deviation;
  float* noisy;
};
void noisy_logits(StreamHandle stream, RandomKey random, std::int64_t first_index, const NoisyLogits& logits,
                  std::int64_t count);
// dclean += dnoisy, dspread = (dspread + dnoisy noise) sigmoid(spread).
void noisy_logits_backward(StreamHandle stream, const float* noise, const float* spread, const float* dnoisy,
                           float* dclean, float* dspread, std::int64_t count);
// sums [T, K] = dweights + that of the token's set and expert in dgates [A, E].
void add_importance(StreamHandle stream, const float* dweights, const float* dgates,
                    const std::int32_t* chosen, float* sums, std::int64_t tokens_a_set, std::int64_t T,
                    std::int64_t K, std::int64_t E);

// layers/moe/router/smooth_load.h. padding may be null.
struct SmoothLoadProblem {
  std::int64_t tokens = 0;   // T
  std::int64_t experts = 0;  // E
  std::int64_t top_k = 0;    // K
  const float* clean = nullptr;
  const float* noisy = nullptr;
  const float* deviation = nullptr;
  const std::int32_t* chosen = nullptr;
  const std::uint8_t* padding = nullptr;
};
void smooth_load(StreamHandle stream, const SmoothLoadProblem& problem, float* load);
void smooth_load_backward(StreamHandle stream, const SmoothLoadProblem& problem, const float* dload,
                          std::int64_t tokens_a_row, float* dclean, float* dnoisy, float* ddeviation);

// Of layers/moe/router/variation_loss.cc. For each of A sets of tokens_a_set tokens, sums [A, 2 E + 1]: what
// each expert's gates add up to, its load (null: 0) likewise, and the set's real tokens.
void variation_sums(StreamHandle stream, const std::int32_t* experts, const float* gates, const float* load,
                    const double* tokens_of_set, std::int64_t tokens_a_set, std::int64_t A, std::int64_t K,
                    std::int64_t E, double* sums);
// CV^2 of each set's E sums from `first` of its row on, times its share of tokens: terms [A]. dvalues [A, E]
// = weight tokens / global_tokens of its gradient.
void variation_gradient(StreamHandle stream, const double* sums, std::int64_t first,
                        const double* tokens_of_set, double global_tokens, double weight, std::int64_t A,
                        std::int64_t E, double* terms, float* dvalues);
// values [count] = sigmoid of logits.
void sigmoids(StreamHandle stream, const float* logits, float* values, std::int64_t count);

// layers/moe/router/expert_choice.h. T = sequences * sequence_length.
struct ExpertChoice {
  std::int64_t sequences = 0;
  std::int64_t sequence_length = 0;
  std::int64_t experts_count = 0;
  float scale = 1;
  const float* probabilities = nullptr;      // [T, E]
  const std::uint8_t* padding = nullptr;     // [T]; null: there is none
  const std::int64_t* capacities = nullptr;  // [sequences]: no more than there are tokens without padding
  std::uint32_t* keys = nullptr;             // [E, T], scratch
  std::int32_t* experts = nullptr;           // [T, E] (=)
  float* weights = nullptr;                  // [T, E] (=)
};
void choose_tokens(StreamHandle stream, const ExpertChoice& args);

// layers/moe/router/hierarchical_gates.h, which says what the fields are.
struct HierarchicalGates {
  std::int64_t tokens = 0;
  std::int64_t groups = 1;         // G
  std::int64_t top_groups = 1;     // H
  std::int64_t group_experts = 1;  // M
  std::int64_t top_in_group = 1;   // K / H
  float* group_probabilities = nullptr;
  std::int32_t* chosen_groups = nullptr;
  float* group_weights = nullptr;
  float* group_log_sum_exp = nullptr;
  float* probabilities = nullptr;
  std::int32_t* places = nullptr;
  float* weights = nullptr;
  float* log_sum_exp = nullptr;
};
void deal_within_groups(StreamHandle stream, const HierarchicalGates& gates, std::int64_t first_token);
void clear_unchosen_groups(StreamHandle stream, const HierarchicalGates& gates);
// hierarchical_weights.h. order, experts, weights and dweights [T, K].
void multiply_weights(StreamHandle stream, const HierarchicalGates& gates, float scale, std::int32_t* order,
                      std::int32_t* experts, float* weights);
void multiply_weights_backward(StreamHandle stream, const HierarchicalGates& gates, float scale,
                               const std::int32_t* order, const float* dweights, float* dgroup_weights,
                               float* dweights_within);
// hierarchical_joint.h. In the last, each row of djoint holds for tokens_a_row tokens.
void joint_entropy(StreamHandle stream, const HierarchicalGates& gates, const float* group_entropy,
                   const float* entropy_within, float* entropy);
void join_gates(StreamHandle stream, const HierarchicalGates& gates, float* joint, float* log_sum_exp);
void join_gates_backward(StreamHandle stream, const HierarchicalGates& gates, const float* djoint,
                         std::int64_t tokens_a_row, float* dgroup_probabilities, float* dprobabilities);

// layers/moe/survivor_weights.h. In the second, dweights may be dsurvivors.
void survivor_weights(StreamHandle stream, const float* weights, const std::int32_t* row_of_choice,
                      float scale, float* survivors, std::int64_t T, std::int64_t K);
void survivor_weights_backward(StreamHandle stream, const float* weights, const std::int32_t* row_of_choice,
                               float scale, const float* dsurvivors, float* dweights, std::int64_t T,
                               std::int64_t K);

// numbers [R]: that of the row's token, the first being `first_token`; 0 for rows of no choice.
void token_numbers(StreamHandle stream, const std::int32_t* choice_of_row, std::int64_t first_token,
                   std::int64_t K, std::int64_t* numbers, std::int64_t R);
// first_block [R] of dropout for rows of local experts (offsets [n + 1]): (token E + expert) blocks_a_row.
void first_dropout_blocks(StreamHandle stream, const std::int64_t* tokens, const std::int64_t* offsets,
                          std::int64_t n, std::int64_t first_expert, std::int64_t E,
                          std::int64_t blocks_a_row, std::int64_t* first_block, std::int64_t R);

// Rows of `row_bytes` from one place to another: run i has rows[i] of them.
struct RowRun {
  std::int64_t from = 0;
  std::int64_t to = 0;
  std::int64_t rows = 0;
};
void move_rows(StreamHandle stream, const void* from, void* to, const RowRun* runs, std::int64_t runs_count,
               std::int64_t most_rows, std::int64_t row_bytes);

}  // namespace conclave::cuda
