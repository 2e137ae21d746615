#include "layers/ops/linear_cross_entropy/linear_cross_entropy.h"

#include <algorithm>

#include "layers/ops/check_shape.h"
#include "layers/ops/gemm/gemm.h"

namespace conclave {
namespace {

// Chunks of 16 MB of logits. At least 256 rows, since each chunk streams weight and dweight through memory
// once; at most 1024, beyond which the matrix products gain nothing.
std::int64_t rows_of_chunk(std::int64_t vocabulary) {
  constexpr std::int64_t kElements = std::int64_t{1} << 22;
  return std::clamp(kElements / std::max(vocabulary, std::int64_t{1}), std::int64_t{256}, std::int64_t{1024});
}

bool given(const TensorView& tensor) { return tensor.raw() != nullptr; }

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

}  // namespace

LinearCrossEntropyResult linear_cross_entropy(Context& ctx, const LinearCrossEntropyArgs& args) {
  check(args);
  const std::int64_t tokens = args.h.extent(0);
  const std::int64_t vocabulary = args.weight.extent(0);
  const std::int64_t chunk = std::min(rows_of_chunk(vocabulary), tokens);
  const bool gradients = given(args.dh);

  const Arena::Mark scratch(*ctx.arena);
  const TensorView logits_of_chunk = ctx.arena->allocate({chunk, vocabulary});
  const TensorView losses_of_chunk = ctx.arena->allocate({chunk}, DType::kFloat64);
  LinearCrossEntropyResult result;
  for (std::int64_t begin = 0; begin < tokens; begin += chunk) {
    const std::int64_t end = std::min(begin + chunk, tokens);
    const ConstTensorView h = args.h.rows(begin, end);
    const ConstTensorView targets = args.targets.rows(begin, end);
    const TensorView logits = logits_of_chunk.rows(0, end - begin);
    const TensorView losses = losses_of_chunk.rows(0, end - begin);

    gemm(ctx, {.a = h, .b = args.weight, .c = logits, .transpose_b = true});
    cpu::cross_entropy_rows({logits, targets, losses, gradients, args.scale});
    for (const double loss : losses.values<double>()) result.loss_sum += loss;
    if (given(args.losses)) {
      std::ranges::transform(losses.values<double>(), args.losses.data<float>() + begin,
                             [](double loss) { return static_cast<float>(loss); });
    }
    if (gradients) {
      const TensorView dlogits = logits;  // written over them
      gemm(ctx, {.a = dlogits, .b = args.weight, .c = args.dh.rows(begin, end)});
      gemm(ctx, {.a = dlogits, .b = h, .c = args.dweight, .transpose_a = true, .accumulate = true});
    }
  }
  result.targets =
      tokens - std::ranges::count(args.targets.values<std::int32_t>(), LinearCrossEntropyArgs::kIgnore);
  return result;
}

}  // namespace conclave
