// The terms that balance noisy top-K gating (Shazeer et al. 2017, equations 6 to 11), over token sets A as
// moe.balance_scope says (layers/moe/balance_loss.h):
//
//   importance  w * CV^2(sum_{t in A} g[t, e])      g: the gates, which sum to 1 over a token's experts
//   load        w * CV^2(sum_{t in A} P[t, e])      P: layers/moe/router/smooth_load.h
//
// CV^2(v) is the population variance over the experts divided by the squared mean, 0 where the mean is 0; no
// root is taken, whose gradient at perfect balance would be NaN. Like every term that of A counts with
// |A| / (tokens of the global batch). Scope global_batch is treated as batch: a sum over micro-batches that
// are gone has no gradient in them.
#pragma once

#include <span>

#include "configs/run.pb.h"
#include "layers/context.h"
#include "layers/moe/statistics.h"

namespace conclave {

// CV^2(sums), and its gradient in the sums into `gradient`, of the same length.
double squared_variation(std::span<const double> sums, std::span<double> gradient);

// Each [A, E]: one row for each of A sets of T / A tokens; empty where the weight is 0. In the arena.
struct VariationGradient {
  ConstTensorView dgates;
  ConstTensorView dload;
};

class VariationLoss {
 public:
  explicit VariationLoss(const config::Moe& moe);

  bool has_load() const { return load_weight_ > 0; }
  bool is_on() const { return importance_weight_ > 0 || load_weight_ > 0; }

  // experts int32 [T, K], gates [T, K] (or a multiple of them), load [T, E] (empty unless has_load()), all
  // without padding: kNoExpert or zeros there. In training only, once a micro-batch. Adds this rank's part of
  // the terms to importance_loss_raw and load_loss_raw. Scopes batch and global_batch add up over
  // ctx.grid->world(): ranks with T = 0 take part.
  VariationGradient forward(Context& ctx, ConstTensorView experts, ConstTensorView gates,
                            ConstTensorView load, MoeStatistics& statistics) const;

 private:
  // `count` sets of `tokens` each.
  struct Sets {
    std::int64_t count = 0;
    std::int64_t tokens = 0;
  };
  VariationGradient forward_on_gpu(Context& ctx, const Sets& sets, ConstTensorView experts,
                                   ConstTensorView gates, ConstTensorView load) const;

  std::int64_t experts_;
  double importance_weight_;
  double load_weight_;
  bool by_sequence_;
};

}  // namespace conclave
