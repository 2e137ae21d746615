#include "layers/tensor/philox.h"

#include <cmath>
#include <numbers>

namespace conclave {

std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter,
                                        std::array<std::uint32_t, 2> key) {
  constexpr std::uint64_t kMultiplier0 = 0xD2511F53;
  constexpr std::uint64_t kMultiplier1 = 0xCD9E8D57;
  constexpr std::uint32_t kWeyl0 = 0x9E3779B9;
  constexpr std::uint32_t kWeyl1 = 0xBB67AE85;
  constexpr int kRounds = 10;
  for (int round = 0; round < kRounds; ++round) {
    const std::uint64_t product0 = kMultiplier0 * counter[0];
    const std::uint64_t product1 = kMultiplier1 * counter[2];
    counter = {static_cast<std::uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<std::uint32_t>(product1),
               static_cast<std::uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<std::uint32_t>(product0)};
    key[0] += kWeyl0;
    key[1] += kWeyl1;
  }
  return counter;
}

RandomStream::RandomStream(std::uint64_t seed, std::string_view name, std::uint64_t substream)
    : substream_(substream) {
  // The key mixes the seed with the name, so that streams of one seed and of neighbouring
  // seeds are unrelated.
  const std::uint64_t hash = stable_hash(name);
  const auto mixed =
      philox4x32({static_cast<std::uint32_t>(hash), static_cast<std::uint32_t>(hash >> 32), 0, 0},
                 {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
  key_ = {mixed[0], mixed[1]};
}

std::array<std::uint32_t, 4> RandomStream::block(std::uint64_t index) const {
  return philox4x32({static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32),
                     static_cast<std::uint32_t>(substream_), static_cast<std::uint32_t>(substream_ >> 32)},
                    key_);
}

std::uint32_t RandomStream::bits(std::uint64_t index) const { return block(index)[0]; }

float RandomStream::uniform(std::uint64_t index) const { return to_uniform(bits(index)); }

float RandomStream::normal(std::uint64_t index) const {
  const auto random = block(index);
  // Two 32-bit uniforms in (0, 1): half-integer offsets keep the logarithm finite.
  const double radius_uniform = (static_cast<double>(random[0]) + 0.5) * 0x1.0p-32;
  const double angle_uniform = (static_cast<double>(random[1]) + 0.5) * 0x1.0p-32;
  return static_cast<float>(std::sqrt(-2.0 * std::log(radius_uniform)) *
                            std::cos(2.0 * std::numbers::pi * angle_uniform));
}

std::uint64_t stable_hash(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325ULL;
  for (const char character : text) {
    hash ^= static_cast<unsigned char>(character);
    hash *= 0x100000001b3ULL;
  }
  return hash;
}

}  // namespace conclave
