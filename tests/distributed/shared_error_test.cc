// ranks: 2 3
// A failure of one rank becomes the same error on all, and all go on together.
#include "trainer/shared_error.h"

#include <gtest/gtest.h>

#include <string>

#include "tests/support/mpi_environment.h"

namespace conclave {
namespace {

// What this rank was told, or "" where nothing was thrown.
template <class Action>
std::string shared_message(Action&& action, ExitCode expected_code) {
  try {
    on_all_ranks(test::world(), action);
  } catch (const SharedError& error) {
    EXPECT_EQ(error.exit_code(), expected_code);
    return error.what();
  }
  return "";
}

TEST(SharedErrorTest, NobodyFails) {
  const int rank = test::world().rank();
  EXPECT_EQ(on_all_ranks(test::world(), [&] { return rank * 10; }), rank * 10);
}

TEST(SharedErrorTest, OneRankFailsAndAllThrowItsMessage) {
  for (int failing = 0; failing < test::world().size(); ++failing) {
    const auto action = [&] {
      if (test::world().rank() == failing) throw ConfigError("the file of rank " + std::to_string(failing));
      return 0;
    };
    EXPECT_EQ(shared_message(action, ExitCode::kConfiguration),
              "the file of rank " + std::to_string(failing));
  }
}

TEST(SharedErrorTest, OfSeveralTheLowestRankIsHeard) {
  const auto action = [&]() -> int {
    throw Error("rank " + std::to_string(test::world().rank()), ExitCode::kFailure);
  };
  EXPECT_EQ(shared_message(action, ExitCode::kFailure), "rank 0");

  const auto all_but_the_first = [&] {
    if (test::world().rank() > 0) throw ConfigError("rank " + std::to_string(test::world().rank()));
    return 0;
  };
  EXPECT_EQ(shared_message(all_but_the_first, ExitCode::kConfiguration), "rank 1");
}

TEST(SharedErrorTest, ALongMessageArrivesWhole) {
  const std::string message(100'000, 'x');
  const auto action = [&] {
    if (test::world().rank() == 1) throw Error(message);
    return 0;
  };
  EXPECT_EQ(shared_message(action, ExitCode::kFailure), message);
}

// A rank that fails keeps to itself the result that the others had: nobody returns one.
TEST(SharedErrorTest, AllGoOnAfterwards) {
  EXPECT_THROW(throw_if_any_failed(test::world(), Error("all of them")), SharedError);
  EXPECT_NO_THROW(throw_if_any_failed(test::world(), std::nullopt));
}

}  // namespace
}  // namespace conclave
