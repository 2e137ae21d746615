// main() of the multi-rank test programs.
#include <gtest/gtest.h>

#include <cstdio>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "comm/mpi/mpi_communicator.h"
#include "comm/self/self_communicator.h"
#include "tests/support/mpi_environment.h"

namespace conclave::test {
namespace {

Communicator* current_world = nullptr;
int current_rank = 0;  // known even after the world is gone

// Prints the failures of ranks that are silent otherwise, and ends the program on those that skip
// the rest of a test.
class FailureListener final : public testing::EmptyTestEventListener {
 public:
  void OnTestStart(const testing::TestInfo& test) override {
    test_ = std::string(test.test_suite_name()) + "." + test.name();
  }
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed()) return;
    if (world().rank() != 0) {
      std::fprintf(stderr, "[rank %d] %s failed at %s:%d\n%s\n", world().rank(), test_.c_str(),
                   result.file_name() != nullptr ? result.file_name() : "?", result.line_number(),
                   result.message());
    }
    if (result.fatally_failed() && world().size() > 1) {
      std::fprintf(stderr, "[rank %d] a fatal failure ends all ranks\n", world().rank());
      MpiRuntime::abort(1);
    }
  }

 private:
  std::string test_;
};

// Runs the tests; true on every rank if they passed on every rank.
bool run_tests() {
  testing::TestEventListeners& listeners = testing::UnitTest::GetInstance()->listeners();
  if (world().rank() != 0) delete listeners.Release(listeners.default_result_printer());
  listeners.Append(new FailureListener);  // owned by GoogleTest

  std::int32_t failed = RUN_ALL_TESTS() != 0 ? 1 : 0;
  world().all_reduce(buffer_view(std::span(&failed, 1)));
  if (failed > 0 && world().rank() == 0) {
    std::fprintf(stderr, "%d of %d ranks failed\n", failed, world().size());
  }
  return failed == 0;
}

int run() {
  std::optional<MpiRuntime> mpi;
  if (MpiRuntime::launched_by_mpirun()) mpi.emplace();
  const std::unique_ptr<Communicator> all_ranks = mpi ? make_mpi_world(*mpi) : make_self_communicator();
  current_world = all_ranks.get();
  current_rank = current_world->rank();
  return run_tests() ? 0 : 1;
}

}  // namespace

Communicator& world() { return *current_world; }

}  // namespace conclave::test

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  // An exception must reach the handler below, which ends all ranks.
  GTEST_FLAG_SET(catch_exceptions, false);
  try {
    return conclave::test::run();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "[rank %d] uncaught exception: %s\n", conclave::test::current_rank, error.what());
    conclave::MpiRuntime::abort(1);
  }
}
