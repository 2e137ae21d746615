#include "layers/ops/linear_cross_entropy/linear_cross_entropy.h"

#include <algorithm>
#include <array>

#include "layers/cuda/add_sum.h"
#include "layers/cuda/arguments.h"
#include "layers/cuda/factor.h"
#include "layers/ops/bf16_gemm/bf16_gemm.h"
#include "layers/ops/check_shape.h"
#include "layers/ops/gemm/gemm.h"

namespace conclave {
namespace {

// Chunks of 16 MB of logits, on a GPU of 512 MB. At least 256 rows, since each chunk streams weight and
// dweight through memory once; at most 1024, beyond which the matrix products of a processor gain nothing, on
// a GPU 4096.
std::int64_t rows_of_chunk(std::int64_t vocabulary, bool on_gpu) {
  const std::int64_t elements = std::int64_t{1} << (on_gpu ? 27 : 22);
  return std::clamp(elements / std::max(vocabulary, std::int64_t{1}), std::int64_t{256},
                    std::int64_t{on_gpu ? 4096 : 1024});
}

bool given(const ConstTensorView& tensor) { return tensor.raw() != nullptr; }

// The three products of the layer, in fp32 or, where the weight is packed, in bf16.
void multiply(Context& ctx, const LinearCrossEntropyArgs& args, ConstTensorView h, TensorView logits) {
  if (!given(args.packed_for_forward)) {
    const Arena::Mark scratch(*ctx.arena);
    gemm(ctx, {.a = cuda::as_factor(ctx, h, args.weight.dtype()),
               .b = args.weight,
               .c = logits,
               .transpose_b = true});
    return;
  }
  const std::array<std::int64_t, 2> all_rows{0, h.extent(0)};
  bf16_grouped_gemm(ctx, {.x = h, .packed = args.packed_for_forward, .offsets = all_rows, .y = logits});
}

void multiply_backward(Context& ctx, const LinearCrossEntropyArgs& args, ConstTensorView h,
                       ConstTensorView dlogits, TensorView dh) {
  if (!given(args.packed_for_forward)) {
    const Arena::Mark scratch(*ctx.arena);
    const DType factors = args.weight.dtype();
    dlogits = cuda::as_factor(ctx, dlogits, factors);
    gemm(ctx, {.a = dlogits, .b = args.weight, .c = dh});
    gemm(ctx, {.a = dlogits,
               .b = cuda::as_factor(ctx, h, factors),
               .c = args.dweight,
               .transpose_a = true,
               .accumulate = true});
    return;
  }
  const std::array<std::int64_t, 2> all_rows{0, h.extent(0)};
  bf16_grouped_gemm(ctx,
                    {.x = dlogits, .packed = args.packed_for_input_gradient, .offsets = all_rows, .y = dh});
  const Shape shape = args.weight.shape();
  bf16_grouped_gemm_weight_gradient(ctx, {.dy = dlogits,
                                          .x = h,
                                          .offsets = all_rows,
                                          .dweights = args.dweight.reshaped({1, shape[0], shape[1]})});
}

void check(const LinearCrossEntropyArgs& args) {
  check_matrix(args.h, "h of linear_cross_entropy");
  check_matrix(args.weight, "weight of linear_cross_entropy");
  const std::int64_t tokens = args.h.extent(0);
  const std::int64_t vocabulary = args.weight.extent(0);
  check_shape(args.weight, {vocabulary, args.h.extent(1)}, "weight of linear_cross_entropy");
  check_shape(args.targets, {tokens}, "targets of linear_cross_entropy");
  CONCLAVE_CHECK(given(args.dh) == given(args.dweight) || tokens == 0,
                 "linear_cross_entropy computes dh and dweight together: one of them is missing");
  if (given(args.losses)) check_shape(args.losses, {tokens}, "losses of linear_cross_entropy");
  if (given(args.dh)) check_shape(args.dh, args.h.shape(), "dh of linear_cross_entropy");
  if (given(args.dweight)) check_shape(args.dweight, args.weight.shape(), "dweight of linear_cross_entropy");
  std::int64_t position = 0;
  for (const std::int32_t target : args.targets.values<std::int32_t>()) {
    CONCLAVE_CHECK(
        (0 <= target && target < vocabulary) || target == LinearCrossEntropyArgs::kIgnore,
        "target {} at position {} of the batch is outside the vocabulary [0, {}) and is not {} (ignore)",
        target, position, vocabulary, LinearCrossEntropyArgs::kIgnore);
    ++position;
  }
}

// The targets where ctx computes.
ConstTensorView targets_of(Context& ctx, const ConstTensorView& targets) {
  if (!ctx.on_gpu()) return targets;
  return {cuda::upload<std::int32_t>(ctx, targets), targets.shape(), DType::kInt32, ctx.gpu->device()};
}

void lose(const Context& ctx, const cpu::CrossEntropyRowsArgs& args) {
  if (!ctx.on_gpu()) return cpu::cross_entropy_rows(args);
  cuda::cross_entropy_rows(cuda::stream_of(ctx), args.logits.data<float>(), args.targets.data<std::int32_t>(),
                           args.losses.data<double>(), args.gradients, args.scale, args.logits.extent(0),
                           args.logits.extent(1));
}

// losses fp64 [T] -> their sum, on a GPU in `cell`.
DeferredSum sum_of(const Context& ctx, const TensorView& losses, const TensorView& cell) {
  if (ctx.on_gpu()) {
    cuda::fill_with_zeros(ctx.gpu->stream(), cell.raw(), sizeof(double));
    cuda::add_sum(cuda::stream_of(ctx), losses.data<double>(), losses.elements(), cell.data<double>());
    return DeferredSum(cell);
  }
  double sum = 0;
  for (const double loss : losses.values<double>()) sum += loss;
  return sum;
}

}  // namespace

LinearCrossEntropyResult linear_cross_entropy(Context& ctx, const LinearCrossEntropyArgs& args) {
  check(args);
  const std::int64_t tokens = args.h.extent(0);
  const std::int64_t vocabulary = args.weight.extent(0);
  const std::int64_t chunk = std::min(rows_of_chunk(vocabulary, ctx.on_gpu()), tokens);
  const bool gradients = given(args.dh);

  TensorView loss_cell;
  if (ctx.on_gpu()) loss_cell = ctx.arena->allocate({1}, DType::kFloat64);
  const Arena::Mark scratch(*ctx.arena);
  const TensorView logits_of_chunk = ctx.arena->allocate({chunk, vocabulary});
  const TensorView all_losses = ctx.arena->allocate({tokens}, DType::kFloat64);
  const ConstTensorView all_targets = targets_of(ctx, args.targets);
  LinearCrossEntropyResult result;
  for (std::int64_t begin = 0; begin < tokens; begin += chunk) {
    const std::int64_t end = std::min(begin + chunk, tokens);
    const ConstTensorView h = args.h.rows(begin, end);
    const TensorView logits = logits_of_chunk.rows(0, end - begin);
    const TensorView losses = all_losses.rows(begin, end);

    multiply(ctx, args, h, logits);
    lose(ctx, {logits, all_targets.rows(begin, end), losses, gradients, args.scale});
    if (gradients) {
      const TensorView dlogits = logits;  // written over them
      multiply_backward(ctx, args, h, dlogits, args.dh.rows(begin, end));
    }
  }
  result.loss_sum = sum_of(ctx, all_losses, loss_cell);
  if (given(args.losses)) {
    ctx.synchronize();
    std::ranges::transform(all_losses.values<double>(), args.losses.data<float>(),
                           [](double loss) { return static_cast<float>(loss); });
  }
  result.targets =
      tokens - std::ranges::count(args.targets.values<std::int32_t>(), LinearCrossEntropyArgs::kIgnore);
  return result;
}

}  // namespace conclave
