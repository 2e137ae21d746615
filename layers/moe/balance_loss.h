// The auxiliary losses of a router: load balance (Shazeer et al. 2017; Fedus et al. 2021) and z-loss
// (Zoph et al. 2022).
//
//   load balance   alpha * E * sum_e f[e] P[e]      f[e] = c[e] / (K |A|), P[e] = mean of p[t, e], t in A
//   z              beta * mean_t log_sum_exp[t]^2
//
// c[e] counts the choices before dropping, so sum f = 1 and perfect balance gives alpha for every K. f is
// constant in the gradient. What the token set A is, `moe.balance_scope` says:
//   sequence      each sequence by itself: the same in every layout
//   batch         this micro-batch on all ranks
//   global_batch  f over all ranks and the micro-batches of this step so far, P over this micro-batch
// The term of A counts with |A| / (tokens of the global batch), so that the plain sum over ranks and
// micro-batches is the mean over the global batch.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "configs/run.pb.h"
#include "layers/context.h"
#include "layers/moe/statistics.h"
#include "layers/tensor/arena.h"

namespace conclave {

// The gradient of the terms, as softmax_top_k_backward takes it.
struct BalanceGradient {
  // alpha * E * f[e] / (tokens of the global batch): [G, E], one row for each set A of T / G tokens; empty
  // where alpha is 0. In the arena.
  ConstTensorView dprobabilities;
  float z_coefficient = 0;  // beta / (tokens of the global batch)
};

class BalanceLoss {
 public:
  explicit BalanceLoss(const config::Moe& moe);

  // probabilities [T, E], experts int32 [T, K], log_sum_exp [T] of this micro-batch;
  // T = ctx.batch.tokens(). Call it in training only, once a micro-batch. Adds this rank's part of the
  // terms to balance_loss_raw and z_loss_raw of `statistics`. Scopes batch and global_batch add the counts
  // up over ctx.grid->world(): ranks with T = 0 take part. On a GPU the terms go to ctx.routing_sums instead,
  // and the host waits for nothing. With alpha = 0 there is no load-balance term: nothing is communicated and
  // balance_loss_raw stays.
  BalanceGradient forward(Context& ctx, ConstTensorView probabilities, ConstTensorView experts,
                          ConstTensorView log_sum_exp, MoeStatistics& statistics);

 private:
  BalanceGradient forward_on_gpu(Context& ctx, ConstTensorView probabilities, ConstTensorView experts,
                                 ConstTensorView log_sum_exp);
  ConstTensorView balance_on_gpu(Context& ctx, ConstTensorView probabilities, ConstTensorView experts);
  // counts int64 [G, E]: as count_choices, of each of G token sets.
  void count_choices_on_gpu(Context& ctx, ConstTensorView experts, TensorView counts);
  // Returns dprobabilities.
  ConstTensorView balance(Context& ctx, ConstTensorView probabilities, ConstTensorView experts,
                          MoeStatistics& statistics);
  // counts [E]: c of the token set that the choices `chosen` of this rank belong to.
  void count_choices(Context& ctx, std::span<const std::int32_t> chosen, std::span<std::int64_t> counts);

  double alpha_;
  double beta_;
  config::Moe::BalanceScope scope_;
  std::vector<std::int64_t> chosen_this_step_;  // [E], all ranks; global_batch only
  Buffer chosen_this_step_on_gpu_;              // in its place
};

}  // namespace conclave
