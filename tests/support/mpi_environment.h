// The group that a multi-rank test runs in. Only for tests/distributed,
// which tests/support/mpi_main.cc starts.
#pragma once

#include <vector>

#include "comm/communicator.h"

namespace conclave::test {

// All ranks of the test program; a group of one without mpirun.
//
// Every rank runs every test. EXPECT_* may fail on one rank and the test goes on; a failed ASSERT_* or an
// exception that nobody catches would leave the other ranks waiting, and so ends the whole program.
Communicator& world();

// Every size that the expert-parallel groups of the world can have.
inline std::vector<int> expert_parallel_sizes() {
  std::vector<int> sizes;
  for (int size = 1; size <= world().size(); ++size) {
    if (world().size() % size == 0) sizes.push_back(size);
  }
  return sizes;
}

}  // namespace conclave::test
