#include "layers/cuda/elements.cuh"
#include "layers/cuda/launch.cuh"
#include "layers/cuda/philox.cuh"

namespace conclave::cuda {
namespace {

// A thread for each block of four elements of a row.
template <class Element>
__global__ void dropout_kernel(RandomKey random, const std::int64_t* first_block, float rate, Element* x,
                               std::uint8_t* kept, std::int64_t rows, std::int64_t width) {
  const std::int64_t blocks = (width + 3) / 4;
  const std::int64_t row = global_thread() / blocks;
  if (row >= rows) return;
  const std::int64_t block = global_thread() % blocks;
  const auto index = static_cast<std::uint64_t>(first_block[row] + block);
  const Uniforms uniforms = draw(random, index);
  const float scale = 1.0F / (1.0F - rate);
  for (std::int64_t f = 4 * block; f < width && f < 4 * block + 4; ++f) {
    const bool stays = uniforms.value[f % 4] >= rate;
    Element& element = x[row * width + f];
    kept[row * width + f] = stays ? 1 : 0;
    set(element, stays ? to_float(element) * scale : 0.0F);
  }
}

template <class Element>
__global__ void dropout_backward_kernel(const std::uint8_t* kept, float rate, Element* dx,
                                        std::int64_t count) {
  const std::int64_t i = global_thread();
  if (i < count) set(dx[i], kept[i] != 0 ? to_float(dx[i]) * (1.0F / (1.0F - rate)) : 0.0F);
}

}  // namespace

void dropout(StreamHandle stream, RandomKey random, const std::int64_t* first_block, float rate, Elements x,
             std::uint8_t* kept, std::int64_t R, std::int64_t F) {
  if (R * F == 0) return;
  visit(x, [&]<class Element>(Element* elements) {
    launch("dropout", stream, blocks_for(R * ((F + 3) / 4)), kThreads, 0, dropout_kernel<Element>, random,
           first_block, rate, elements, kept, R, F);
  });
}

void dropout_backward(StreamHandle stream, const std::uint8_t* kept, float rate, Elements dx,
                      std::int64_t count) {
  if (count == 0) return;
  visit(dx, [&]<class Element>(Element* elements) {
    launch("dropout_backward", stream, blocks_for(count), kThreads, 0, dropout_backward_kernel<Element>, kept,
           rate, elements, count);
  });
}

}  // namespace conclave::cuda
