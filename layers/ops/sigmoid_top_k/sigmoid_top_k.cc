#include "layers/ops/sigmoid_top_k/sigmoid_top_k.h"

#include "layers/cuda/arguments.h"
#include "layers/ops/check_shape.h"

namespace conclave {
namespace {

void choose_on_gpu(Context& ctx, const SigmoidTopKArgs& args) {
  const Arena::Mark of_groups(*ctx.arena);
  const GroupScratch scratch = allocate_group_scratch(ctx, args.groups, args.logits.extent(0));
  const bool limits = args.groups.limits();
  cuda::sigmoid_top_k(cuda::stream_of(ctx),
                      {.tokens = args.logits.extent(0),
                       .experts_count = args.logits.extent(1),
                       .top_k = args.experts.extent(1),
                       .normalize = args.normalize,
                       .scale = args.scale,
                       .groups = args.groups.groups,
                       .top_groups = args.groups.top_groups,
                       .logits = args.logits.data<float>(),
                       .bias = cuda::upload<float>(ctx, args.bias),  // the router moves it on the host
                       .probabilities = args.probabilities.data<float>(),
                       .experts = args.experts.data<std::int32_t>(),
                       .weights = args.weights.data<float>(),
                       .log_sum_exp = args.log_sum_exp.data<float>(),
                       .entropy = args.entropy.data<float>(),
                       .group_scores = limits ? scratch.scores.data<float>() : nullptr,
                       .best_groups = limits ? scratch.best.data<std::int32_t>() : nullptr});
}

}  // namespace

void sigmoid_top_k(Context& ctx, const SigmoidTopKArgs& args) {
  check_matrix(args.logits, "logits of sigmoid_top_k");
  check_matrix(args.experts, "experts of sigmoid_top_k");
  const std::int64_t tokens = args.logits.extent(0);
  const std::int64_t experts = args.logits.extent(1);
  const std::int64_t top_k = args.experts.extent(1);
  check_selection(experts, top_k, args.groups);
  CONCLAVE_CHECK(args.scale > 0, "sigmoid_top_k can't scale weights by {}", args.scale);
  check_shape(args.bias, {experts}, "bias of sigmoid_top_k");
  check_shape(args.probabilities, {tokens, experts}, "probabilities of sigmoid_top_k");
  check_shape(args.experts, {tokens, top_k}, "experts of sigmoid_top_k");
  check_shape(args.weights, {tokens, top_k}, "weights of sigmoid_top_k");
  check_shape(args.log_sum_exp, {tokens}, "log_sum_exp of sigmoid_top_k");
  check_shape(args.entropy, {tokens}, "entropy of sigmoid_top_k");
  if (ctx.on_gpu()) return choose_on_gpu(ctx, args);
  if (!args.groups.limits()) return cpu::sigmoid_top_k(args, {});
  const Arena::Mark scratch(*ctx.arena);
  cpu::sigmoid_top_k(args, allocate_group_scratch(ctx, args.groups, tokens));
}

void sigmoid_top_k_backward(Context& ctx, const SigmoidTopKBackwardArgs& args) {
  check_matrix(args.probabilities, "probabilities of sigmoid_top_k_backward");
  check_matrix(args.experts, "experts of sigmoid_top_k_backward");
  const std::int64_t tokens = args.probabilities.extent(0);
  const std::int64_t experts = args.probabilities.extent(1);
  const std::int64_t top_k = args.experts.extent(1);
  check_shape(args.logits, {tokens, experts}, "logits of sigmoid_top_k_backward");
  check_shape(args.experts, {tokens, top_k}, "experts of sigmoid_top_k_backward");
  check_shape(args.weights, {tokens, top_k}, "weights of sigmoid_top_k_backward");
  check_shape(args.log_sum_exp, {tokens}, "log_sum_exp of sigmoid_top_k_backward");
  check_shape(args.dweights, {tokens, top_k}, "dweights of sigmoid_top_k_backward");
  check_shape(args.dlogits, {tokens, experts}, "dlogits of sigmoid_top_k_backward");
  if (args.dprobabilities.elements() > 0) {
    const std::int64_t groups = args.dprobabilities.extent(0);
    check_shape(args.dprobabilities, {groups, experts}, "dprobabilities of sigmoid_top_k_backward");
    CONCLAVE_CHECK(tokens % groups == 0, "{} rows of dprobabilities can't share {} tokens evenly", groups,
                   tokens);
  }
  if (ctx.on_gpu()) {
    const bool has_dprobabilities = args.dprobabilities.elements() > 0;
    cuda::sigmoid_top_k_backward(
        cuda::stream_of(ctx),
        {.tokens = tokens,
         .experts_count = experts,
         .top_k = top_k,
         .normalize = args.normalize,
         .scale = args.scale,
         .z_coefficient = args.z_coefficient,
         .tokens_a_row = has_dprobabilities ? tokens / args.dprobabilities.extent(0) : 1,
         .logits = args.logits.data<float>(),
         .probabilities = args.probabilities.data<float>(),
         .experts = args.experts.data<std::int32_t>(),
         .weights = args.weights.data<float>(),
         .log_sum_exp = args.log_sum_exp.data<float>(),
         .dweights = args.dweights.data<float>(),
         .dprobabilities = has_dprobabilities ? args.dprobabilities.data<float>() : nullptr,
         .dlogits = args.dlogits.data<float>()});
    return;
  }
  cpu::sigmoid_top_k_backward(args);
}

}  // namespace conclave
