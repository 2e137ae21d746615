// The group that a multi-rank test runs in. Only for tests/distributed, which tests/support/mpi_main.cc
// starts.
#pragma once

#include "comm/communicator.h"

namespace conclave::test {

// All ranks of the test program; a group of one without mpirun.
//
// Every rank runs every test. EXPECT_* may fail on one rank and the test goes on; a failed ASSERT_* or an
// exception that nobody catches would leave the other ranks waiting, and so ends the whole program.
Communicator& world();

}  // namespace conclave::test
