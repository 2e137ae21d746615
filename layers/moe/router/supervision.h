// Router supervision: which experts the tokens of a source belong to. For a token t of a source with the
// experts S the term is
//   weight * -ln sum_{e in S} p[t, e] / (tokens of the global batch)
// where p are the router's probabilities of all E experts (of a sigmoid router its shares): the negative
// logarithm of the probability that one draw from p falls into S. Like every loss it is divided by all tokens
// of the global batch, labelled or not, so that its sum over ranks and micro-batches is the same in every
// layout.
#pragma once

#include <cstdint>
#include <vector>

#include "configs/run.pb.h"
#include "layers/context.h"
#include "layers/moe/balance_loss.h"
#include "layers/moe/statistics.h"

namespace conclave {

class RouterSupervision {
 public:
  // `experiment` is that of the layer: moe.router_supervision, and data.train for the sources' order.
  explicit RouterSupervision(const config::Experiment& experiment);

  // False where no source has experts of its own.
  bool is_on() const { return !experts_of_source_.empty(); }

  // In training. probabilities p [T, E]; `terms` as the balance terms left them. Adds this term's gradient to
  // terms.dprobabilities, which becomes [T, E] in ctx.arena, or stays where no token is labelled. Adds to
  // supervision_loss_raw. A probability below the smallest normal number counts as that.
  void add_gradient(Context& ctx, ConstTensorView probabilities, BalanceGradient& terms,
                    MoeStatistics& statistics) const;

  // Counts labelled_tokens, and labelled_hits by the first choice of each token: experts int32 [T, K].
  void count_hits(const Context& ctx, ConstTensorView experts, MoeStatistics& statistics) const;

 private:
  // The experts that token t should go to; null if its source has none.
  const std::vector<std::int32_t>* experts_of(const Context& ctx, std::int64_t token) const;
  bool has_labels(const Context& ctx) const;

  double weight_;
  std::vector<std::vector<std::int32_t>> experts_of_source_;  // [sources]; empty without supervision
};

}  // namespace conclave
