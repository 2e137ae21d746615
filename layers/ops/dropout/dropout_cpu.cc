#include <algorithm>

#include "layers/ops/dropout/dropout.h"
#include "layers/tensor/visit_elements.h"

namespace conclave::cpu {
namespace {

template <class Element>
void forward(const DropoutArgs& args, Element* all_x) {
  const std::int64_t rows = args.x.extent(0);
  const std::int64_t width = args.x.extent(1);
  const float scale = 1.0F / (1.0F - args.rate);
  std::uint8_t* all_kept = args.kept.data<std::uint8_t>();
  const auto* first_block_of_row = args.first_block.data<std::int64_t>();
#pragma omp parallel for schedule(static)
  for (std::int64_t r = 0; r < rows; ++r) {
    Element* x = all_x + r * width;
    std::uint8_t* kept = all_kept + r * width;
    const std::int64_t first_block = first_block_of_row[r];
    for (std::int64_t f = 0; f < width; f += 4) {
      const auto words = args.random.block(static_cast<std::uint64_t>(first_block + f / 4));
      const std::int64_t count = std::min<std::int64_t>(4, width - f);
      for (std::int64_t i = 0; i < count; ++i) {
        const bool stays = to_uniform(words[static_cast<std::size_t>(i)]) >= args.rate;
        kept[f + i] = stays ? 1 : 0;
        set(x[f + i], stays ? to_float(x[f + i]) * scale : 0.0F);
      }
    }
  }
}

template <class Element>
void backward(const DropoutBackwardArgs& args, Element* all_dx) {
  const std::int64_t rows = args.dx.extent(0);
  const std::int64_t width = args.dx.extent(1);
  const float scale = 1.0F / (1.0F - args.rate);
  const std::uint8_t* all_kept = args.kept.data<std::uint8_t>();
#pragma omp parallel for schedule(static)
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::uint8_t* kept = all_kept + r * width;
    Element* dx = all_dx + r * width;
#pragma omp simd
    for (std::int64_t f = 0; f < width; ++f) {
      set(dx[f], kept[f] != 0 ? to_float(dx[f]) * scale : 0.0F);
    }
  }
}

}  // namespace

void dropout(const DropoutArgs& args) {
  visit_elements(args.x, [&](auto* x) { forward(args, x); });
}

void dropout_backward(const DropoutBackwardArgs& args) {
  visit_elements(args.dx, [&](auto* dx) { backward(args, dx); });
}

}  // namespace conclave::cpu
