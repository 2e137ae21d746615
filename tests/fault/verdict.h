// For the table of faults and verdicts that ends the fault suite (tests/fault/table.sh), and how long the
// tests go on.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <string>

namespace conclave::test {

// FAULT_ROUNDS of the environment, or `usual`.
inline std::int64_t fault_rounds(std::int64_t usual) {
  const char* rounds = std::getenv("FAULT_ROUNDS");
  return rounds == nullptr ? usual : std::atoll(rounds);
}

// FAULT_SEED of the environment, to repeat a round that failed; or a seed that is always the same.
inline std::uint64_t fault_seed() {
  const char* seed = std::getenv("FAULT_SEED");
  return seed == nullptr ? 20240229 : std::strtoull(seed, nullptr, 10);
}

// A line of the table, unless the test has failed. Without FAULT_VERDICTS there is no table.
inline void verdict(const std::string& fault, const std::string& text) {
  const char* table = std::getenv("FAULT_VERDICTS");
  if (table == nullptr || testing::Test::HasFailure()) return;
  std::ofstream(table, std::ios::app) << fault + "\t" + text + "\n";
}

}  // namespace conclave::test
