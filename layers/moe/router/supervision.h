// Router supervision: which experts the tokens of a source belong to. For a token t of a source with the
// experts S the term is
//   weight * -ln sum_{e in S} p[t, e] / (tokens of the global batch)
// where p is the softmax of all E logits: the negative logarithm of the probability that one draw from p
// falls into S. Like every loss it is divided by all tokens of the global batch, labelled or not, so that its
// sum over ranks and micro-batches is the same in every layout.
#pragma once

#include <cstdint>
#include <vector>

#include "configs/run.pb.h"
#include "layers/context.h"
#include "layers/moe/statistics.h"

namespace conclave {

class RouterSupervision {
 public:
  // `experiment` is that of the layer: moe.router_supervision, and data.train for the sources' order.
  explicit RouterSupervision(const config::Experiment& experiment);

  // In training. probabilities p [T, E]; dprobabilities [G, E] (T / G tokens a row) or empty, as other terms
  // left it. Returns the sum of it and of this term's gradient, for softmax_top_k_backward: [T, E] in
  // ctx.arena, or `dprobabilities` itself where no token is labelled. Adds to supervision_loss_raw. A
  // probability below the smallest normal number counts as that.
  ConstTensorView add_gradient(Context& ctx, ConstTensorView probabilities, ConstTensorView dprobabilities,
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
