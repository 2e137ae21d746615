#include "layers/ops/softmax_top_k/softmax_top_k.h"

#include "layers/cuda/arguments.h"
#include "layers/cuda/top_k_arguments.h"
#include "layers/ops/check_shape.h"

namespace conclave {
namespace {

void choose(const Context& ctx, const SoftmaxTopKArgs& args, const GroupScratch& scratch) {
  if (!ctx.on_gpu()) return cpu::softmax_top_k(args, scratch);
  cuda::softmax_top_k(cuda::stream_of(ctx), cuda::top_k_of(args, scratch));
}

}  // namespace

void softmax_top_k(Context& ctx, const SoftmaxTopKArgs& args) {
  check_matrix(args.logits, "logits of softmax_top_k");
  check_matrix(args.experts, "experts of softmax_top_k");
  const std::int64_t tokens = args.logits.extent(0);
  const std::int64_t experts = args.logits.extent(1);
  const std::int64_t top_k = args.experts.extent(1);
  check_selection(experts, top_k, args.groups);
  CONCLAVE_CHECK(args.scale > 0, "softmax_top_k can't scale weights by {}", args.scale);
  check_shape(args.probabilities, {tokens, experts}, "probabilities of softmax_top_k");
  check_shape(args.experts, {tokens, top_k}, "experts of softmax_top_k");
  check_shape(args.weights, {tokens, top_k}, "weights of softmax_top_k");
  check_shape(args.log_sum_exp, {tokens}, "log_sum_exp of softmax_top_k");
  check_shape(args.entropy, {tokens}, "entropy of softmax_top_k");
  if (!args.groups.limits()) return choose(ctx, args, {});
  const Arena::Mark scratch(*ctx.arena);
  choose(ctx, args, allocate_group_scratch(ctx, args.groups, tokens));
}

void softmax_top_k_backward(Context& ctx, const SoftmaxTopKBackwardArgs& args) {
  check_matrix(args.probabilities, "probabilities of softmax_top_k_backward");
  check_matrix(args.experts, "experts of softmax_top_k_backward");
  const std::int64_t tokens = args.probabilities.extent(0);
  const std::int64_t experts = args.probabilities.extent(1);
  const std::int64_t top_k = args.experts.extent(1);
  check_shape(args.experts, {tokens, top_k}, "experts of softmax_top_k_backward");
  check_shape(args.weights, {tokens, top_k}, "weights of softmax_top_k_backward");
  check_shape(args.log_sum_exp, {tokens}, "log_sum_exp of softmax_top_k_backward");
  check_shape(args.dweights, {tokens, top_k}, "dweights of softmax_top_k_backward");
  check_shape(args.dlogits, {tokens, experts}, "dlogits of softmax_top_k_backward");
  if (args.dprobabilities.elements() > 0) {
    const std::int64_t groups = args.dprobabilities.extent(0);
    check_shape(args.dprobabilities, {groups, experts}, "dprobabilities of softmax_top_k_backward");
    CONCLAVE_CHECK(tokens % groups == 0, "{} rows of dprobabilities can't share {} tokens evenly", groups,
                   tokens);
  }
  if (ctx.on_gpu()) return cuda::softmax_top_k_backward(cuda::stream_of(ctx), cuda::top_k_backward_of(args));
  cpu::softmax_top_k_backward(args);
}

}  // namespace conclave
