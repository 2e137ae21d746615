#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

#include "comm/base/error.h"
#include "trainer/data/permutation.h"
#include "trainer/data/sampler.h"

namespace conclave::data {
namespace {

std::vector<std::int64_t> order(std::int64_t size, std::uint64_t seed, std::string_view name,
                                std::int64_t epoch) {
  const Permutation permutation(size, seed, name, epoch);
  std::vector<std::int64_t> result;
  for (std::int64_t index = 0; index < size; ++index) result.push_back(permutation(index));
  return result;
}

TEST(Permutation, IsABijectionOfEverySize) {
  std::vector<std::int64_t> sizes;
  for (std::int64_t size = 1; size <= 130; ++size) sizes.push_back(size);
  for (const std::int64_t size : {255, 256, 257, 1023, 1025, 4095, 4097, 65537}) sizes.push_back(size);
  for (const std::int64_t size : sizes) {
    std::vector<bool> taken(static_cast<std::size_t>(size), false);
    for (const std::int64_t place : order(size, 1, "a", 0)) {
      ASSERT_GE(place, 0) << size;
      ASSERT_LT(place, size) << size;
      ASSERT_FALSE(taken[static_cast<std::size_t>(place)]) << size;
      taken[static_cast<std::size_t>(place)] = true;
    }
  }
}

TEST(Permutation, StaysInAVeryLargeDomain) {
  const std::int64_t size = (std::int64_t{1} << 61) + 12345;
  const Permutation permutation(size, 1, "a", 0);
  std::set<std::int64_t> places;
  for (std::int64_t index = 0; index < 1000; ++index) {
    const std::int64_t place = permutation(size - 1 - index);
    EXPECT_GE(place, 0);
    EXPECT_LT(place, size);
    places.insert(place);
  }
  EXPECT_EQ(places.size(), 1000U);
}

TEST(Permutation, DependsOnEveryPartOfItsKey) {
  const auto base = order(1000, 1, "a", 0);
  EXPECT_EQ(base, order(1000, 1, "a", 0));
  EXPECT_NE(base, order(1000, 2, "a", 0));
  EXPECT_NE(base, order(1000, 1, "b", 0));
  EXPECT_NE(base, order(1000, 1, "a", 1));
}

TEST(Permutation, RefusesAnEmptyDomain) { EXPECT_THROW(Permutation(0, 1, "a", 0), Error); }

// Over many keys every index of a small domain goes to every place equally often: each cell of the table is
// binomial with n = 20000, p = 1/5, and lies within 6 standard deviations of its mean.
TEST(Permutation, IsUniformOverKeys) {
  constexpr int kKeys = 20000;
  constexpr int kSize = 5;
  int hits[kSize][kSize] = {};
  for (int key = 0; key < kKeys; ++key) {
    const Permutation permutation(kSize, 7, "uniform", key);
    for (int index = 0; index < kSize; ++index) ++hits[index][permutation(index)];
  }
  const double mean = static_cast<double>(kKeys) / kSize;
  const double deviation = std::sqrt(mean * (1.0 - 1.0 / kSize));
  for (const auto& row : hits) {
    for (const int hit : row) EXPECT_NEAR(hit, mean, 6.0 * deviation);
  }
}

void expect_even_turns(const std::vector<double>& weights, std::int64_t samples) {
  const SourceSchedule schedule(weights);
  double sum = 0;
  for (const double weight : weights) sum += weight;
  std::vector<std::int64_t> taken(weights.size(), 0);
  for (std::int64_t sample = 0; sample < samples; ++sample) {
    const SourceSchedule::Turn turn = schedule.turn(sample);
    std::int64_t& ordinal = taken[static_cast<std::size_t>(turn.source)];
    ASSERT_EQ(turn.ordinal, ordinal) << "sample " << sample;
    ++ordinal;
    for (std::size_t source = 0; source < weights.size(); ++source) {
      ASSERT_EQ(schedule.count(static_cast<int>(source), sample + 1), taken[source]) << "sample " << sample;
      // Shares are rounded to 2^-20, which moves the expected count by a few times samples * 2^-20.
      const double expected = static_cast<double>(sample + 1) * weights[source] / sum;
      const double slack =
          static_cast<double>(weights.size()) * (1.0 + static_cast<double>(samples) * 0x1p-20);
      ASSERT_LT(std::abs(static_cast<double>(taken[source]) - expected), slack) << "sample " << sample;
    }
  }
}

TEST(SourceSchedule, SourcesTakeTurnsByWeight) {
  expect_even_turns({1.0}, 100);
  expect_even_turns({1.0, 1.0}, 1000);
  expect_even_turns({1.0, 1.0, 1.0, 1.0}, 1000);
  expect_even_turns({0.7, 0.2, 0.1}, 5000);
  expect_even_turns({3.0, 0.001, 5.0, 0.02, 1.0}, 20000);
}

TEST(SourceSchedule, GivesATinyWeightItsTurns) {
  const SourceSchedule schedule(std::vector<double>{1e12, 1.0});
  EXPECT_GT(schedule.share(1), 0.0);
  EXPECT_EQ(schedule.count(1, std::int64_t{1} << 22), 4);
}

TEST(SourceSchedule, HoldsAtLargeIndices) {
  const SourceSchedule schedule(std::vector<double>{0.3, 0.3, 0.4});
  const std::int64_t sample = (std::int64_t{1} << 42) - 1;
  EXPECT_EQ(schedule.count(0, sample) + schedule.count(1, sample) + schedule.count(2, sample), sample);
  const SourceSchedule::Turn turn = schedule.turn(sample);
  EXPECT_EQ(turn.ordinal, schedule.count(turn.source, sample));
}

TEST(SourceSchedule, RefusesWeightsThatAreNoShares) {
  EXPECT_THROW(SourceSchedule(std::vector<double>{}), Error);
  EXPECT_THROW(SourceSchedule(std::vector<double>{1.0, 0.0}), Error);
  EXPECT_THROW(SourceSchedule(std::vector<double>{1.0, -1.0}), Error);
  EXPECT_THROW(SourceSchedule(std::vector<double>{std::numeric_limits<double>::infinity()}), Error);
}

TEST(Sampler, VisitsEachWindowOnceAnEpoch) {
  const Sampler sampler({{"a", 0.75, 30}, {"b", 0.25, 7}}, 42);
  std::vector<std::vector<std::int64_t>> seen = {std::vector<std::int64_t>(30, 0),
                                                 std::vector<std::int64_t>(7, 0)};
  for (std::int64_t n = 0; n < 4 * 7 * 30; ++n) {
    const Sample sample = sampler.at(n);
    std::int64_t& times =
        seen[static_cast<std::size_t>(sample.source)][static_cast<std::size_t>(sample.window)];
    // Seen exactly `epoch` times before: no window comes again before all have come.
    ASSERT_EQ(times, sample.epoch) << "sample " << n;
    ++times;
  }
  EXPECT_EQ(seen[0], std::vector<std::int64_t>(30, 21));
  EXPECT_EQ(seen[1], std::vector<std::int64_t>(7, 30));
}

TEST(Sampler, ShufflesEachEpochAnew) {
  const Sampler sampler({{"a", 1.0, 100}}, 42);
  std::vector<std::int64_t> first, second;
  for (std::int64_t n = 0; n < 100; ++n) {
    first.push_back(sampler.at(n).window);
    second.push_back(sampler.at(100 + n).window);
  }
  EXPECT_NE(first, second);
}

}  // namespace
}  // namespace conclave::data
