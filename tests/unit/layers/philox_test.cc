#include "layers/tensor/philox.h"

#include <gtest/gtest.h>

#include <cmath>

namespace conclave {
namespace {

// Known answers of the Random123 distribution (kat_vectors, philox4x32 10 rounds).
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (std::array<std::uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (std::array<std::uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (std::array<std::uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(RandomStream, StreamsAndSubstreamsDiffer) {
  const RandomStream a(1, "a");
  EXPECT_NE(a.bits(0), RandomStream(1, "b").bits(0));
  EXPECT_NE(a.bits(0), RandomStream(2, "a").bits(0));
  EXPECT_NE(a.bits(0), RandomStream(1, "a", 1).bits(0));
  EXPECT_EQ(a.bits(7), RandomStream(1, "a").bits(7));
}

// Mean and variance of n samples lie within 5 standard errors: 1/sqrt(n) and sqrt(2/n) for the normal.
TEST(RandomStream, NormalHasUnitVariance) {
  const RandomStream random(3, "normal");
  constexpr int kSamples = 100000;
  double sum = 0;
  double sum_of_squares = 0;
  for (int i = 0; i < kSamples; ++i) {
    const double value = random.normal(static_cast<std::uint64_t>(i));
    sum += value;
    sum_of_squares += value * value;
  }
  EXPECT_NEAR(sum / kSamples, 0.0, 5.0 / std::sqrt(kSamples));
  EXPECT_NEAR(sum_of_squares / kSamples, 1.0, 5.0 * std::sqrt(2.0 / kSamples));
}

}  // namespace
}  // namespace conclave
