// A message that takes its time while later ones of the same rank arrive is no disagreement: exchanges may be
// under way together, and over a slow network for longer than ranks wait before they suspect each other.
// ranks: 2
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <thread>
#include <vector>

#include "comm/communicator.h"
#include "tests/support/mpi_environment.h"

namespace conclave::test {
namespace {

// Before MPI starts: a large message then needs its sender for every piece, as over a network.
[[maybe_unused]] const int kNoSingleCopies = setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 1);

constexpr std::int64_t kLarge = std::int64_t{1} << 20;
constexpr std::int64_t kSmall = 10;

struct Pair {
  std::vector<std::int32_t> send;
  std::vector<std::int32_t> recv;

  explicit Pair(std::int64_t count)
      : send(static_cast<std::size_t>(2 * count), world().rank() + 1), recv(send.size()) {}
  Work start(Communicator& group) {
    return group.all_to_all(buffer_view(std::span<const std::int32_t>(send)), buffer_view(std::span(recv)));
  }
  bool arrived() const {
    for (std::size_t i = 0; i < recv.size(); ++i) {
      if (recv[i] != (i < recv.size() / 2 ? 1 : 2)) return false;
    }
    return true;
  }
};

TEST(LateMessage, IsWaitedForWhileLaterOnesArrive) {
  const auto group = world().split(0, world().rank(), "slow");
  group->set_paths({Path::kMpi, 0});
  Pair large(kLarge);
  Pair small(kSmall);
  Work first = large.start(*group);
  if (world().rank() == 0) {
    Work second = small.start(*group);
    std::this_thread::sleep_for(std::chrono::milliseconds(1500));  // nothing moves meanwhile
    first.wait();
    second.wait();
  } else {
    first.wait();
    small.start(*group).wait();
  }
  EXPECT_TRUE(large.arrived());
  EXPECT_TRUE(small.arrived());
}

}  // namespace
}  // namespace conclave::test
