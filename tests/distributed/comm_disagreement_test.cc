// Ranks that disagree about a count or an operation. Exactly two ranks: with more, messages of the others
// would be left pending, and MPI promises nothing after an error.
// ranks: 2
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "comm/base/error.h"
#include "comm/communicator.h"
#include "tests/support/mpi_environment.h"

namespace conclave::test {
namespace {

// Both ranks send two elements to each other. The message with which the exchange failed on this rank when
// rank 0 expects `expected` instead; "" if it did not fail.
std::string failure(std::int64_t expected) {
  const auto group = world().split(0, 0, "disagreeing");
  const bool wrong = world().rank() == 0;
  const std::vector<std::int64_t> send_counts = {2, 2};
  const std::vector<std::int64_t> recv_counts = {2, wrong ? expected : 2};
  std::vector<std::int32_t> send(4);
  std::vector<std::int32_t> recv(static_cast<std::size_t>(recv_counts[0] + recv_counts[1]));
  try {
    group->all_to_all_v(buffer_view(std::span(send)), send_counts, buffer_view(std::span(recv)), recv_counts);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Disagreement, IsFoundByTheRankThatExpectsSomethingElse) {
  for (const std::int64_t expected : {0, 1, 3}) {
    const std::string message = failure(expected);
    if (world().rank() == 0) {
      EXPECT_THAT(
          message,
          testing::AllOf(testing::HasSubstr("all_to_all_v"), testing::HasSubstr("disagreeing"),
                         testing::HasSubstr("rank 0 of 2"),
                         testing::HasSubstr(fmt::format("expected {} bytes from rank 1", 4 * expected))));
    } else {
      EXPECT_EQ(message, "");
    }
    world().barrier();
  }
}

// What `operation` failed with on this rank, in a group of its own; "" if it did not fail.
template <class Action>
std::string failure_of(Action&& action) {
  const auto group = world().split(0, 0, "disagreeing");
  std::string message;
  try {
    group->barrier();
    action(*group);
  } catch (const Error& error) {
    message = error.what();
  }
  world().barrier();
  return message;
}

void gather(Communicator& group) {
  const std::int32_t mine = 1;
  std::vector<std::int32_t> all(2);
  group.all_gather(buffer_view(std::span(&mine, 1)), buffer_view(std::span(all)));
}
void exchange(Communicator& group) {
  const std::vector<std::int32_t> send(2);
  std::vector<std::int32_t> recv(2);
  group.all_to_all(buffer_view(std::span(send)), buffer_view(std::span(recv)));
}
void reduce(Communicator& group, std::int64_t count) {
  std::vector<float> data(static_cast<std::size_t>(count));
  group.all_reduce(buffer_view(std::span(data)));
}

TEST(Disagreement, AboutTheOperationNamesBothSides) {
  const bool first = world().rank() == 0;
  const std::string message =
      failure_of([&](Communicator& group) { first ? gather(group) : exchange(group); });
  EXPECT_THAT(
      message,
      testing::AllOf(testing::HasSubstr(fmt::format("{} number 2 of", first ? "all_gather" : "all_to_all_v")),
                     testing::HasSubstr(fmt::format("rank {} is in another operation", first ? 1 : 0)),
                     testing::HasSubstr(first ? "all_to_all_v number 2" : "all_gather number 2")));
}

TEST(Disagreement, BetweenLargeOperations) {
  const bool first = world().rank() == 0;
  const std::string message =
      failure_of([&](Communicator& group) { first ? reduce(group, 10'000) : exchange(group); });
  EXPECT_THAT(message, testing::HasSubstr(first ? "all_to_all_v number 2" : "all_reduce number 2"));
}

TEST(Disagreement, BetweenSmallOperations) {
  const bool first = world().rank() == 0;
  const std::string message = failure_of([&](Communicator& group) {
    if (first) {
      group.barrier();
    } else {
      reduce(group, 3);
    }
  });
  EXPECT_THAT(message, testing::HasSubstr(first ? "all_reduce number 2, and sends 12 bytes"
                                                : "barrier number 2, and sends 0 bytes"));
}

}  // namespace
}  // namespace conclave::test
