#include "trainer/metrics/table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "comm/base/error.h"
#include "trainer/metrics/specialisation.h"

namespace conclave {
namespace {

using testing::HasSubstr;

TEST(FormatTable, AlignsNumbersRightAndTextLeft) {
  EXPECT_EQ(format_table({"name", "count", "note"}, {{"embedding", "7", "x"}, {"übung", "1,234", ""}}),
            "name       count  note\n"
            "----------------------\n"
            "embedding      7  x\n"
            "übung      1,234\n");
  EXPECT_EQ(format_table({"a"}, {}), "a\n-\n");
  EXPECT_THROW(format_table({"a", "b"}, {{"1"}}), Error);
}

TEST(FormatBytes, ThreeDigits) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(999), "999 B");
  EXPECT_EQ(format_bytes(1024), "1.00 KiB");
  EXPECT_EQ(format_bytes(10.5 * 1024), "10.5 KiB");
  EXPECT_EQ(format_bytes(312.0 * 1024 * 1024), "312 MiB");
  EXPECT_EQ(format_bytes(1000.0 * 1024), "0.98 MiB");
}

TEST(FormatDuration, TwoLargestUnits) {
  EXPECT_EQ(format_duration(-1), "0s");
  EXPECT_EQ(format_duration(59.4), "59s");
  EXPECT_EQ(format_duration(59.6), "1m 00s");
  EXPECT_EQ(format_duration(3600 + 20 * 60), "1h 20m");
  EXPECT_EQ(format_duration(2 * 86400 + 4 * 3600), "2d 04h");
}

TEST(FormatCount, GroupsOfThree) {
  EXPECT_EQ(format_count(0), "0");
  EXPECT_EQ(format_count(999), "999");
  EXPECT_EQ(format_count(1000), "1,000");
  EXPECT_EQ(format_count(-1234567), "-1,234,567");
}

TEST(Specialisation, IsTheNormalisedMutualInformation) {
  EXPECT_DOUBLE_EQ(specialisation({{5, 5}, {100, 100}}), 0);  // sizes of the sources do not matter
  EXPECT_DOUBLE_EQ(specialisation({{5, 0}, {0, 100}}), 1);
  EXPECT_DOUBLE_EQ(specialisation({{1, 2, 0, 0}, {0, 0, 3, 9}}), 1);
  // Two sources, (3/4, 1/4) and (1/4, 3/4): 1 - H(1/4) in bits.
  EXPECT_NEAR(specialisation({{3, 1}, {1, 3}}), 1 + 0.25 * std::log2(0.25) + 0.75 * std::log2(0.75), 1e-15);
  EXPECT_EQ(specialisation({{3, 1}}), 0);
  EXPECT_EQ(specialisation({{3, 1}, {0, 0}}), 0);
  EXPECT_EQ(specialisation({}), 0);
}

TEST(ExpertsBySource, SharesOfEachSourceWithTheStrongestMarked) {
  const std::vector<std::string> sources{"kjv", "c++"};
  const std::vector<std::int64_t> layers{1, 3};
  const LoadsBySource loads{{{30, 10}, {1, 1}}, {{0, 8}, {2, 2}}};
  EXPECT_EQ(experts_by_source_table(sources, layers, loads),
            "Layer 1: share of each source's choices that an expert takes (* the strongest)\n"
            "expert      kjv       c++\n"
            "-------------------------\n"
            "     0  75.0% *    0.0%\n"
            "     1  25.0%    100.0% *\n"
            "\n"
            "Layer 3: share of each source's choices that an expert takes (* the strongest)\n"
            "expert      kjv      c++\n"
            "------------------------\n"
            "     0  50.0% *  50.0% *\n"
            "     1  50.0%    50.0%\n"
            "\n"
            "Specialisation (what a token's expert says about its source, I(source; expert) / H(source)): "
            "layer 1 54.9%, layer 3 0.0%\n");
}

TEST(ExpertsBySource, EmptySourcesAndSingleSources) {
  const std::vector<std::string> sources{"kjv"};
  const std::vector<std::int64_t> layers{0};
  EXPECT_EQ(experts_by_source_table(sources, layers, {{{0, 0}}}),
            "Layer 0: share of each source's choices that an expert takes (* the strongest)\n"
            "expert  kjv\n"
            "-----------\n"
            "     0    -\n"
            "     1    -\n"
            "\n");
  EXPECT_EQ(experts_by_source_table({}, {}, {}), "");
  EXPECT_THROW(experts_by_source_table(sources, layers, {{{0, 0}, {1, 1}}}), Error);
  EXPECT_THROW(experts_by_source_table(sources, layers, {}), Error);
}

}  // namespace
}  // namespace conclave
