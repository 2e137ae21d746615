// layers/tensor/philox.h as kernels draw from it: the same numbers.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>
#include "layers/cuda/kernels.h"

namespace conclave::cuda {

// In [0, 1).
struct Uniforms {
  float value[4];
};

// RandomStream::uniform4: Philox4x32-10 of one index of the stream.
__device__ inline Uniforms draw(const RandomKey& random, std::uint64_t index) {
  constexpr std::uint32_t kMultiplier0 = 0xD2511F53;
  constexpr std::uint32_t kMultiplier1 = 0xCD9E8D57;
  std::uint32_t words[4] = {static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32),
                            static_cast<std::uint32_t>(random.substream),
                            static_cast<std::uint32_t>(random.substream >> 32)};
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
  Uniforms uniforms;
  for (int i = 0; i < 4; ++i) uniforms.value[i] = static_cast<float>(words[i] >> 8) * 0x1.0p-24F;
  return uniforms;
}

}  // namespace conclave::cuda
