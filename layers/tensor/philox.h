// Philox4x32-10, the counter-based generator of Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3" (SC 2011). A random number is a pure function of (seed, stream, index): never of a rank,
// a thread or a layout.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace conclave {

// Ten rounds over a 128-bit counter with a 64-bit key.
std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter,
                                        std::array<std::uint32_t, 2> key);

// Random bits as a number uniform in [0, 1), 24 bits.
inline float to_uniform(std::uint32_t bits) { return static_cast<float>(bits >> 8) * 0x1.0p-24F; }

// One independent stream of random numbers, addressed by index.
class RandomStream {
 public:
  // `name` is what the numbers are for ("layers.0.attention.qkv", "sampler/kjv"); `substream` separates parts
  // of it (an expert's global id, an epoch).
  RandomStream(std::uint64_t seed, std::string_view name, std::uint64_t substream = 0);

  // Four words of 32 random bits; the first is bits(index).
  std::array<std::uint32_t, 4> block(std::uint64_t index) const;
  // 32 random bits.
  std::uint32_t bits(std::uint64_t index) const;
  // Uniform in [0, 1), 24 bits.
  float uniform(std::uint64_t index) const;
  // Four independent ones for one index; the first is uniform(index). For many numbers in a row: one draw
  // costs as much as four.
  std::array<float, 4> uniform4(std::uint64_t index) const;
  // What kernels compute the same words from: philox4x32({index, substream}, key), each the lower half first.
  std::array<std::uint32_t, 2> key() const { return key_; }
  std::uint64_t substream() const { return substream_; }
  // Standard normal by Box-Muller, computed in double precision.
  float normal(std::uint64_t index) const;

 private:
  std::array<std::uint32_t, 2> key_;
  std::uint64_t substream_;
};

// FNV-1a, 64 bits: a stable hash of names.
std::uint64_t stable_hash(std::string_view text);

}  // namespace conclave
