#include "layers/moe/router/supervision.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace conclave {

RouterSupervision::RouterSupervision(const config::Experiment& experiment)
    : weight_(experiment.moe().router_supervision().weight()) {
  const auto& labels = experiment.moe().router_supervision().sources();
  if (labels.empty()) return;
  for (const config::Source& source : experiment.data().train()) {
    const auto label = std::ranges::find(labels, source.name(), &config::SourceExperts::source);
    experts_of_source_.emplace_back();
    if (label != labels.end()) {
      experts_of_source_.back().assign(label->experts().begin(), label->experts().end());
    }
  }
}

void RouterSupervision::add_gradient(Context& ctx, ConstTensorView probabilities, BalanceGradient& terms,
                                     MoeStatistics& statistics) const {
  if (weight_ == 0 || !has_labels(ctx)) return;
  const ConstTensorView dprobabilities = terms.dprobabilities;
  const std::int64_t T = probabilities.extent(0);
  const std::int64_t E = probabilities.extent(1);
  const auto global_tokens = static_cast<double>(ctx.batch.global_tokens());
  const TensorView sum = ctx.arena->allocate({T, E});
  const bool has_others = dprobabilities.elements() > 0;
  const std::int64_t tokens_a_row = has_others ? T / dprobabilities.extent(0) : 1;

  for (std::int64_t t = 0; t < T; ++t) {
    float* gradient = sum.data<float>() + t * E;
    if (has_others) {
      std::copy_n(dprobabilities.data<float>() + t / tokens_a_row * E, E, gradient);
    } else {
      std::fill_n(gradient, E, 0.0F);
    }
    const std::vector<std::int32_t>* experts = experts_of(ctx, t);
    if (experts == nullptr) continue;
    const float* p = probabilities.data<float>() + t * E;
    double probability = 0;
    for (const std::int32_t expert : *experts) probability += static_cast<double>(p[expert]);
    probability = std::max(probability, static_cast<double>(std::numeric_limits<float>::min()));
    statistics.supervision_loss_raw -= std::log(probability) / global_tokens;
    const auto step = static_cast<float>(weight_ / (global_tokens * probability));
    for (const std::int32_t expert : *experts) gradient[expert] -= step;
  }
  terms.dprobabilities = sum;
}

void RouterSupervision::count_hits(const Context& ctx, ConstTensorView experts,
                                   MoeStatistics& statistics) const {
  if (!has_labels(ctx)) return;
  for (std::int64_t t = 0; t < experts.extent(0); ++t) {
    const std::vector<std::int32_t>* wanted = experts_of(ctx, t);
    if (wanted == nullptr) continue;
    const std::int32_t first_choice = experts.data<std::int32_t>()[t * experts.extent(1)];
    ++statistics.labelled_tokens;
    if (std::ranges::find(*wanted, first_choice) != wanted->end()) ++statistics.labelled_hits;
  }
}

const std::vector<std::int32_t>* RouterSupervision::experts_of(const Context& ctx, std::int64_t token) const {
  if (ctx.is_padding(token)) return nullptr;
  const std::int32_t source = ctx.source_of_sequence.data<std::int32_t>()[token / ctx.batch.sequence_length];
  const std::vector<std::int32_t>& experts = experts_of_source_[static_cast<std::size_t>(source)];
  return experts.empty() ? nullptr : &experts;
}

bool RouterSupervision::has_labels(const Context& ctx) const {
  return !experts_of_source_.empty() && ctx.source_of_sequence.elements() > 0;
}

}  // namespace conclave
