#include "layers/ops/softmax_top_k/softmax_top_k.h"

namespace conclave {
namespace {

void check_shape(const Shape& shape, const Shape& wanted, const char* what) {
  CONCLAVE_CHECK(shape == wanted, "{}: found the shape {}, expected {}", what, shape.text(), wanted.text());
}

}  // namespace

void softmax_top_k(Context&, const SoftmaxTopKArgs& args) {
  CONCLAVE_CHECK(args.logits.shape().rank() == 2 && args.experts.shape().rank() == 2,
                 "softmax_top_k takes logits [T, E] and experts [T, K], found {} and {}",
                 args.logits.shape().text(), args.experts.shape().text());
  const std::int64_t tokens = args.logits.extent(0);
  const std::int64_t experts = args.logits.extent(1);
  const std::int64_t top_k = args.experts.extent(1);
  CONCLAVE_CHECK(1 <= top_k && top_k <= experts, "can't choose {} of {} experts", top_k, experts);
  check_shape(args.probabilities.shape(), {tokens, experts}, "probabilities of softmax_top_k");
  check_shape(args.experts.shape(), {tokens, top_k}, "experts of softmax_top_k");
  check_shape(args.weights.shape(), {tokens, top_k}, "weights of softmax_top_k");
  check_shape(args.log_sum_exp.shape(), {tokens}, "log_sum_exp of softmax_top_k");
  check_shape(args.entropy.shape(), {tokens}, "entropy of softmax_top_k");
  cpu::softmax_top_k(args);
}

void softmax_top_k_backward(Context&, const SoftmaxTopKBackwardArgs& args) {
  CONCLAVE_CHECK(args.probabilities.shape().rank() == 2 && args.experts.shape().rank() == 2,
                 "softmax_top_k_backward takes probabilities [T, E] and experts [T, K], found {} and {}",
                 args.probabilities.shape().text(), args.experts.shape().text());
  const std::int64_t tokens = args.probabilities.extent(0);
  const std::int64_t experts = args.probabilities.extent(1);
  const std::int64_t top_k = args.experts.extent(1);
  check_shape(args.experts.shape(), {tokens, top_k}, "experts of softmax_top_k_backward");
  check_shape(args.weights.shape(), {tokens, top_k}, "weights of softmax_top_k_backward");
  check_shape(args.log_sum_exp.shape(), {tokens}, "log_sum_exp of softmax_top_k_backward");
  check_shape(args.dweights.shape(), {tokens, top_k}, "dweights of softmax_top_k_backward");
  check_shape(args.dlogits.shape(), {tokens, experts}, "dlogits of softmax_top_k_backward");
  if (args.dprobabilities.elements() > 0) {
    const std::int64_t groups = args.dprobabilities.extent(0);
    check_shape(args.dprobabilities.shape(), {groups, experts}, "dprobabilities of softmax_top_k_backward");
    CONCLAVE_CHECK(tokens % groups == 0, "{} rows of dprobabilities can't share {} tokens evenly", groups,
                   tokens);
  }
  cpu::softmax_top_k_backward(args);
}

}  // namespace conclave
