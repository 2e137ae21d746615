#include "layers/ops/attention/attention.h"

#include <limits>

#include "layers/cuda/arguments.h"
#include "layers/ops/check_shape.h"

namespace conclave {
namespace {

void check_heads(const AttentionShape& shape) {
  CONCLAVE_CHECK(shape.heads > 0 && shape.kv_heads > 0 && shape.head_dim > 0,
                 "attention needs heads, found {} query heads, {} key/value heads of width {}", shape.heads,
                 shape.kv_heads, shape.head_dim);
  CONCLAVE_CHECK(shape.heads % shape.kv_heads == 0,
                 "attention: {} query heads can't be shared out evenly among {} key/value heads", shape.heads,
                 shape.kv_heads);
}

void check_sequences(std::int64_t tokens, std::int64_t sequence_length) {
  if (tokens == 0) return;
  CONCLAVE_CHECK(sequence_length > 0 && tokens % sequence_length == 0,
                 "attention: {} tokens are no whole number of sequences of {}", tokens, sequence_length);
}

void check_padding(const ConstTensorView& padding, std::int64_t tokens, const char* what) {
  if (padding.elements() > 0) check_shape(padding, {tokens}, what);
}

bool has_kernel(const AttentionShape& shape) { return shape.head_dim <= cuda::widest_head(); }

cuda::AttentionProblem problem_of(const Context& ctx, const AttentionShape& shape, std::int64_t sequences,
                                  std::int64_t sequence_length, bool causal) {
  CONCLAVE_CHECK(sequence_length <= std::numeric_limits<int>::max(),
                 "attention on a GPU: a sequence of {} tokens is too long", sequence_length);
  return {.sequences = sequences,
          .queries = sequence_length,
          .keys = sequence_length,
          .heads = shape.heads,
          .kv_heads = shape.kv_heads,
          .head_dim = shape.head_dim,
          .causal = causal,
          .in_bf16 = ctx.compute == DType::kBFloat16};
}

const std::uint8_t* padding_on_gpu(Context& ctx, const ConstTensorView& padding) {
  return padding.elements() > 0 ? cuda::upload<std::uint8_t>(ctx, padding) : nullptr;
}

void* scratch_of(Context& ctx, std::int64_t bytes) {
  return ctx.arena->allocate({bytes}, DType::kUInt8).data<std::uint8_t>();
}

}  // namespace

void attention_forward(Context& ctx, const AttentionForwardArgs& args) {
  const AttentionShape& shape = args.shape;
  check_heads(shape);
  check_matrix(args.q, "q of attention");
  const std::int64_t tokens = args.q.extent(0);
  check_sequences(tokens, args.sequence_length);
  check_shape(args.q, {tokens, shape.query_width()}, "q of attention");
  check_shape(args.k, {tokens, shape.kv_width()}, "k of attention");
  check_shape(args.v, {tokens, shape.kv_width()}, "v of attention");
  check_shape(args.y, {tokens, shape.query_width()}, "y of attention");
  check_shape(args.log_sum_exp, {tokens, shape.heads}, "log_sum_exp of attention");
  check_padding(args.padding, tokens, "padding of attention");
  const Span span(ctx.clock, "scores and values", TimePart::kAttention);
  if (tokens == 0) return;
  if (!ctx.on_gpu()) return cpu::attention_forward(ctx, args);
  if (!has_kernel(shape))
    return cuda::on_host(ctx, "attention of wide heads", [&] { cpu::attention_forward(ctx, args); });
  const Arena::Mark scratch(*ctx.arena);
  const cuda::AttentionProblem problem =
      problem_of(ctx, shape, tokens / args.sequence_length, args.sequence_length, args.causal);
  cuda::attention_forward(cuda::stream_of(ctx), problem, args.q.data<float>(), args.k.data<float>(),
                          args.v.data<float>(), padding_on_gpu(ctx, args.padding), args.y.data<float>(),
                          args.log_sum_exp.data<float>(),
                          scratch_of(ctx, cuda::attention_forward_scratch_bytes(problem)));
}

void attention_backward(Context& ctx, const AttentionBackwardArgs& args) {
  const AttentionShape& shape = args.shape;
  check_heads(shape);
  check_matrix(args.q, "q of attention_backward");
  const std::int64_t tokens = args.q.extent(0);
  const Shape queries{tokens, shape.query_width()};
  const Shape keys{tokens, shape.kv_width()};
  check_sequences(tokens, args.sequence_length);
  check_shape(args.q, queries, "q of attention_backward");
  check_shape(args.k, keys, "k of attention_backward");
  check_shape(args.v, keys, "v of attention_backward");
  check_shape(args.y, queries, "y of attention_backward");
  check_shape(args.log_sum_exp, {tokens, shape.heads}, "log_sum_exp of attention_backward");
  check_shape(args.dy, queries, "dy of attention_backward");
  check_shape(args.dq, queries, "dq of attention_backward");
  check_shape(args.dk, keys, "dk of attention_backward");
  check_shape(args.dv, keys, "dv of attention_backward");
  check_padding(args.padding, tokens, "padding of attention_backward");
  const Span span(ctx.clock, "scores and values backward", TimePart::kAttention);
  if (tokens == 0) return;
  if (!ctx.on_gpu()) return cpu::attention_backward(ctx, args);
  if (!has_kernel(shape))
    return cuda::on_host(ctx, "attention of wide heads", [&] { cpu::attention_backward(ctx, args); });
  const Arena::Mark scratch(*ctx.arena);
  const cuda::AttentionProblem problem =
      problem_of(ctx, shape, tokens / args.sequence_length, args.sequence_length, args.causal);
  cuda::attention_backward(cuda::stream_of(ctx), problem, args.q.data<float>(), args.k.data<float>(),
                           args.v.data<float>(), padding_on_gpu(ctx, args.padding), args.y.data<float>(),
                           args.log_sum_exp.data<float>(), args.dy.data<float>(), args.dq.data<float>(),
                           args.dk.data<float>(), args.dv.data<float>(),
                           scratch_of(ctx, cuda::attention_backward_scratch_bytes(problem)));
}

void attention_decode(Context& ctx, const AttentionDecodeArgs& args) {
  const AttentionShape& shape = args.shape;
  check_heads(shape);
  check_matrix(args.q, "q of attention_decode");
  check_matrix(args.k, "k of attention_decode");
  const std::int64_t new_positions = args.q.extent(0);
  const std::int64_t positions = args.k.extent(0);
  CONCLAVE_CHECK(new_positions <= positions,
                 "attention_decode: {} new positions, but keys of only {}: append the new keys first",
                 new_positions, positions);
  check_shape(args.q, {new_positions, shape.query_width()}, "q of attention_decode");
  check_shape(args.k, {positions, shape.kv_width()}, "k of attention_decode");
  check_shape(args.v, {positions, shape.kv_width()}, "v of attention_decode");
  check_shape(args.y, {new_positions, shape.query_width()}, "y of attention_decode");
  if (new_positions == 0) return;
  if (!ctx.on_gpu()) return cpu::attention_decode(ctx, args);
  if (!has_kernel(shape))
    return cuda::on_host(ctx, "attention of wide heads", [&] { cpu::attention_decode(ctx, args); });
  cuda::AttentionProblem problem = problem_of(ctx, shape, 1, positions, /*causal=*/true);
  problem.queries = new_positions;
  if (new_positions <= cuda::kFewQueries) {
    return cuda::attention_decode(cuda::stream_of(ctx), problem, args.q.data<float>(), args.k.data<float>(),
                                  args.v.data<float>(), args.y.data<float>());
  }
  const Arena::Mark scratch(*ctx.arena);
  cuda::attention_forward(cuda::stream_of(ctx), problem, args.q.data<float>(), args.k.data<float>(),
                          args.v.data<float>(), nullptr, args.y.data<float>(), nullptr,
                          scratch_of(ctx, cuda::attention_forward_scratch_bytes(problem)));
}

}  // namespace conclave
