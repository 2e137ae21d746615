#include "layers/ops/embedding/embedding.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "layers/cuda/arguments.h"
#include "layers/ops/check_shape.h"

namespace conclave {
namespace {

void check(const ConstTensorView& table, const ConstTensorView& tokens, const ConstTensorView& x) {
  check_matrix(table, "table of embedding");
  check_shape(x, {tokens.elements(), table.extent(1)}, "rows of embedding");
  const std::int64_t vocabulary = table.extent(0);
  std::int64_t position = 0;
  for (const std::int32_t token : tokens.values<std::int32_t>()) {
    CONCLAVE_CHECK(0 <= token && token < vocabulary,
                   "token {} at position {} of the batch is outside the vocabulary [0, {}): were the data "
                   "written for another tokenizer or model.vocab_size?",
                   token, position, vocabulary);
    ++position;
  }
}

// The positions of a batch, those of one token together and in order: what a GPU sums without two threads
// writing to one row.
struct Runs {
  std::vector<std::int32_t> positions;
  std::vector<std::int32_t> first;  // of each token that occurs, in positions, and one past the end

  std::int64_t count() const { return static_cast<std::int64_t>(first.size()) - 1; }
};

Runs runs_of(std::span<const std::int32_t> tokens) {
  Runs runs;
  runs.positions.resize(tokens.size());
  std::iota(runs.positions.begin(), runs.positions.end(), 0);
  const auto token_at = [&](std::int32_t position) { return tokens[static_cast<std::size_t>(position)]; };
  std::ranges::stable_sort(runs.positions, {}, token_at);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (i == 0 || token_at(runs.positions[i]) != token_at(runs.positions[i - 1]))
      runs.first.push_back(static_cast<std::int32_t>(i));
  }
  runs.first.push_back(static_cast<std::int32_t>(tokens.size()));
  return runs;
}

}  // namespace

void embedding(Context& ctx, const EmbeddingArgs& args) {
  check(args.weight, args.tokens, args.x);
  if (ctx.on_gpu()) {
    const Arena::Mark scratch(*ctx.arena);
    cuda::embedding(cuda::stream_of(ctx), args.weight.data<float>(),
                    cuda::upload<std::int32_t>(ctx, args.tokens), args.x.data<float>(), args.x.extent(0),
                    args.x.extent(1));
    return;
  }
  cpu::embedding(args);
}

void embedding_backward(Context& ctx, const EmbeddingBackwardArgs& args) {
  check(args.dweight, args.tokens, args.dx);
  if (ctx.on_gpu()) {
    const Arena::Mark scratch(*ctx.arena);
    const Runs runs = runs_of(args.tokens.values<std::int32_t>());
    cuda::embedding_backward(cuda::stream_of(ctx), args.dx.data<float>(),
                             cuda::upload<std::int32_t>(ctx, args.tokens),
                             cuda::upload(ctx, std::span<const std::int32_t>(runs.positions)),
                             cuda::upload(ctx, std::span<const std::int32_t>(runs.first)), runs.count(),
                             args.dweight.data<float>(), args.dx.extent(1));
    return;
  }
  cpu::embedding_backward(args);
}

}  // namespace conclave
