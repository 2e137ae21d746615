// Elementary functions for inner loops.
//
// glibc offers its vector exp only under -ffast-math, and its scalar exp rounds differently, so that a value
// would depend on whether it fell into a loop's vector part or its remainder. These are plain arithmetic: any
// compiler vectorises them when inlined into a loop, on any machine, and a lane computes what a scalar does.
#pragma once

#include <bit>
#include <cstdint>

namespace conclave {

// e^x in fp32, within 2 units in the last place. Results below the smallest normal number are 0 (so e^-inf =
// 0), x above 88.37 gives the value there (2.4e38, finite), NaN stays NaN.
inline float vector_exp(float x) {
  constexpr float kSmallest = -87.33654F;  // ln(2^-126)
  constexpr float kLargest = 88.37F;       // below ln(2^127.5)
  constexpr float kLog2E = 0x1.715476p+0F;
  constexpr float kLn2High = 0x1.62e4p-1F;  // 14 bits: its product with an exponent is exact
  constexpr float kLn2Low = 1.42860682e-6F;
  constexpr float kRounder = 0x1.8p23F;  // x + kRounder holds the nearest integer in its low bits

  const float clamped = x > kLargest ? kLargest : x;
  const float shifted = clamped * kLog2E + kRounder;
  const float exponent = shifted - kRounder;
  const float r = (clamped - exponent * kLn2High) - exponent * kLn2Low;  // |r| <= ln(2) / 2
  // Taylor series: the first term left out is r^8 / 8! < 6e-9.
  float series = 1.0F / 5040.0F;
  series = series * r + 1.0F / 720.0F;
  series = series * r + 1.0F / 120.0F;
  series = series * r + 1.0F / 24.0F;
  series = series * r + 1.0F / 6.0F;
  series = series * r + 0.5F;
  series = series * r + 1.0F;
  series = series * r + 1.0F;
  const float power_of_two = std::bit_cast<float>((std::bit_cast<std::uint32_t>(shifted) + 127U) << 23);
  return x < kSmallest ? 0.0F : series * power_of_two;
}

// 1 / (1 + e^-x).
inline float vector_sigmoid(float x) { return 1.0F / (1.0F + vector_exp(-x)); }

}  // namespace conclave
