#include "layers/cuda/elements.cuh"
#include "layers/cuda/launch.cuh"

namespace conclave::cuda {
namespace {

struct Words {
  std::uint32_t word[4];
};

// Philox4x32-10, as in layers/tensor/philox.cc.
__device__ Words philox4x32(Words counter, std::uint32_t key0, std::uint32_t key1) {
  constexpr std::uint32_t kMultiplier0 = 0xD2511F53;
  constexpr std::uint32_t kMultiplier1 = 0xCD9E8D57;
  for (int round = 0; round < 10; ++round) {
    const std::uint32_t high0 = __umulhi(kMultiplier0, counter.word[0]);
    const std::uint32_t low0 = kMultiplier0 * counter.word[0];
    const std::uint32_t high1 = __umulhi(kMultiplier1, counter.word[2]);
    const std::uint32_t low1 = kMultiplier1 * counter.word[2];
    counter = {{high1 ^ counter.word[1] ^ key0, low1, high0 ^ counter.word[3] ^ key1, low0}};
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
  return counter;
}

// A thread for each block of four elements of a row.
template <class Element>
__global__ void dropout_kernel(RandomKey random, const std::int64_t* first_block, float rate, Element* x,
                               std::uint8_t* kept, std::int64_t rows, std::int64_t width) {
  const std::int64_t blocks = (width + 3) / 4;
  const std::int64_t row = global_thread() / blocks;
  if (row >= rows) return;
  const std::int64_t block = global_thread() % blocks;
  const auto index = static_cast<std::uint64_t>(first_block[row] + block);
  const Words words = philox4x32(
      {{static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32),
        static_cast<std::uint32_t>(random.substream), static_cast<std::uint32_t>(random.substream >> 32)}},
      random.key[0], random.key[1]);
  const float scale = 1.0F / (1.0F - rate);
  for (std::int64_t f = 4 * block; f < width && f < 4 * block + 4; ++f) {
    const float uniform = static_cast<float>(words.word[f % 4] >> 8) * 0x1.0p-24F;
    const bool stays = uniform >= rate;
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
