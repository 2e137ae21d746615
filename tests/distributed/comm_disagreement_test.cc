// Ranks that disagree about a count. Exactly two ranks: with more, messages of the others would be left
// pending, and MPI promises nothing after an error.
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

}  // namespace
}  // namespace conclave::test
