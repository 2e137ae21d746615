#include <algorithm>

#include "layers/ops/embedding/embedding.h"

namespace conclave::cpu {

void embedding(const EmbeddingArgs& args) {
  const std::int64_t rows = args.x.extent(0);
  const std::int64_t width = args.x.extent(1);
  const float* weight = args.weight.data<float>();
  const std::int32_t* tokens = args.tokens.data<std::int32_t>();
  float* x = args.x.data<float>();
#pragma omp parallel for schedule(static)
  for (std::int64_t t = 0; t < rows; ++t) std::copy_n(weight + tokens[t] * width, width, x + t * width);
}

// Each thread owns some columns of the table, so that no two write to one element and each element sums its
// rows in order.
void embedding_backward(const EmbeddingBackwardArgs& args) {
  constexpr std::int64_t kColumns = 64;  // four cache lines: wide enough for the prefetcher
  const std::int64_t rows = args.dx.extent(0);
  const std::int64_t width = args.dx.extent(1);
  const float* dx = args.dx.data<float>();
  const std::int32_t* tokens = args.tokens.data<std::int32_t>();
  float* dweight = args.dweight.data<float>();
#pragma omp parallel for schedule(static)
  for (std::int64_t begin = 0; begin < width; begin += kColumns) {
    const std::int64_t end = std::min(begin + kColumns, width);
    for (std::int64_t t = 0; t < rows; ++t) {
      const float* source = dx + t * width;
      float* target = dweight + tokens[t] * width;
#pragma omp simd
      for (std::int64_t d = begin; d < end; ++d) target[d] += source[d];
    }
  }
}

}  // namespace conclave::cpu
