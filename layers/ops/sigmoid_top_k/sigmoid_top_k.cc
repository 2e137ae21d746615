#include "layers/ops/sigmoid_top_k/sigmoid_top_k.h"

#include "layers/cuda/arguments.h"
#include "layers/cuda/top_k_arguments.h"
#include "layers/ops/check_shape.h"

namespace conclave {
namespace {

void choose(Context& ctx, const SigmoidTopKArgs& args, const GroupScratch& scratch) {
  if (!ctx.on_gpu()) return cpu::sigmoid_top_k(args, scratch);
  const Arena::Mark of_bias(*ctx.arena);
  const float* bias = cuda::on_gpu<float>(ctx, args.bias);
  cuda::sigmoid_top_k(cuda::stream_of(ctx), cuda::top_k_of(args, scratch), bias);
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
  if (!args.groups.limits()) return choose(ctx, args, {});
  const Arena::Mark scratch(*ctx.arena);
  choose(ctx, args, allocate_group_scratch(ctx, args.groups, tokens));
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
    return cuda::sigmoid_top_k_backward(cuda::stream_of(ctx), cuda::top_k_backward_of(args),
                                        args.logits.data<float>());
  }
  cpu::sigmoid_top_k_backward(args);
}

}  // namespace conclave
