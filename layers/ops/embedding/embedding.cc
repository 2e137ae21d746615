#include "layers/ops/embedding/embedding.h"

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

}  // namespace

void embedding(Context&, const EmbeddingArgs& args) {
  check(args.weight, args.tokens, args.x);
  cpu::embedding(args);
}

void embedding_backward(Context&, const EmbeddingBackwardArgs& args) {
  check(args.dweight, args.tokens, args.dx);
  cpu::embedding_backward(args);
}

}  // namespace conclave
