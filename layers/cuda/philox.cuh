// layers/tensor/philox.h as kernels draw from it: the same numbers.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>
#include "layers/cuda/kernels.h"

namespace conclave::cuda {

struct RandomWords {
  std::uint32_t value[4];
};
// In [0, 1).
struct Uniforms {
  float value[4];
};

// RandomStream::block: Philox4x32-10 of one index of the stream.
__device__ inline RandomWords draw_words(const RandomKey& random, std::uint64_t index) {
  constexpr std::uint32_t kMultiplier0 = 0xD2511F53;
  constexpr std::uint32_t kMultiplier1 = 0xCD9E8D57;
  RandomWords drawn{{static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32),
                     static_cast<std::uint32_t>(random.substream),
                     static_cast<std::uint32_t>(random.substream >> 32)}};
  auto& words = drawn.value;
  std::uint32_t key0 = random.key[0];
  std::uint32_t key1 = random.key[1];
  for (int round = 0; round < 10; ++round) {
    const std::uint32_t high0 = __umulhi(kMultiplier0, words[0]);
    const std::uint32_t low0 = kMultiplier0 * words[0];
    const std::uint32_t high1 = __umulhi(kMultiplier1, words[2]);
    const std::uint32_t low1 = kMultiplier1 * words[2];
    words[0] = high1 ^ words[1] ^ key0;
    words[1] = low1;
    words[2] = high0 ^ words[3] ^ key1;
    words[3] = low0;
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
  return drawn;
}

// RandomStream::uniform4.
__device__ inline Uniforms draw(const RandomKey& random, std::uint64_t index) {
  const RandomWords words = draw_words(random, index);
  Uniforms uniforms;
  for (int i = 0; i < 4; ++i) uniforms.value[i] = static_cast<float>(words.value[i] >> 8) * 0x1.0p-24F;
  return uniforms;
}

// RandomStream::normal.
__device__ inline float draw_normal(const RandomKey& random, std::uint64_t index) {
  constexpr double kTwoPi = 6.283185307179586;
  const RandomWords words = draw_words(random, index);
  const double radius_uniform = (words.value[0] + 0.5) * 0x1.0p-32;
  const double angle_uniform = (words.value[1] + 0.5) * 0x1.0p-32;
  return static_cast<float>(sqrt(-2.0 * log(radius_uniform)) * cos(kTwoPi * angle_uniform));
}

}  // namespace conclave::cuda
