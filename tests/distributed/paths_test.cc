// Every way that data can take gives the same bits: shared memory, MPI, hierarchical over pretended nodes.
// ranks: 1 2 3 4
#include "comm/paths.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "comm/base/error.h"
#include "comm/communicator.h"
#include "layers/tensor/philox.h"
#include "tests/support/mpi_environment.h"

namespace conclave::test {
namespace {

// More than a ring of slots holds, and no multiple of a slot.
constexpr std::int64_t kBeyondTheWindow = (std::int64_t{1} << 19) + 4'321;

int size() { return world().size(); }
int rank() { return world().rank(); }

std::unique_ptr<Communicator> group_with(const PathOptions& options, const char* name = "group") {
  auto group = world().split(0, rank(), name);
  group->set_paths(options);
  return group;
}

std::vector<PathOptions> all_paths() {
  std::vector<PathOptions> paths = {{Path::kMpi, 0}, {Path::kAuto, 0}, {Path::kShared, 0}};
  for (int ranks_per_node = 1; ranks_per_node < size(); ++ranks_per_node) {
    paths.push_back({Path::kAuto, ranks_per_node});
    paths.push_back({Path::kHierarchical, ranks_per_node});
  }
  return paths;
}

std::string text_of(const PathOptions& options) {
  return fmt::format("path {}, {} ranks per node", static_cast<int>(options.path), options.ranks_per_node);
}

// What one rank sends to another: every element names both and its place.
using Counts = std::int64_t (*)(int from, int to);
std::int64_t none(int, int) { return 0; }
std::int64_t few(int from, int to) { return 1 + (from + 2 * to) % 3; }
std::int64_t uneven(int from, int to) { return (from + to) % 3 == 0 ? 0 : 900 * from + 77 * to * to + 5; }
std::int64_t to_the_last(int, int to) { return to == size() - 1 ? 20'011 : 0; }
std::int64_t only_to_oneself(int from, int to) { return from == to ? 3'000 : 0; }
std::int64_t large(int from, int to) { return kBeyondTheWindow + 1000 * from + to; }
std::int64_t one_is_large(int from, int to) {
  return from == 0 && to == size() - 1 ? kBeyondTheWindow : from;
}

std::int32_t value(int from, int to, std::int64_t i) {
  return static_cast<std::int32_t>(i * 131 + from * 17 + to);
}

struct Exchange {
  std::vector<std::int64_t> send_counts;
  std::vector<std::int64_t> recv_counts;
  std::vector<std::int32_t> send;
  std::vector<std::int32_t> recv;
  std::vector<std::int32_t> wanted;

  explicit Exchange(Counts counts) {
    for (int peer = 0; peer < size(); ++peer) {
      send_counts.push_back(counts(rank(), peer));
      recv_counts.push_back(counts(peer, rank()));
      for (std::int64_t i = 0; i < send_counts.back(); ++i) send.push_back(value(rank(), peer, i));
      for (std::int64_t i = 0; i < recv_counts.back(); ++i) wanted.push_back(value(peer, rank(), i));
    }
    recv.resize(wanted.size());
  }
  Work start(Communicator& group) {
    return group.all_to_all_v(buffer_view(std::span<const std::int32_t>(send)), send_counts,
                              buffer_view(std::span(recv)), recv_counts);
  }
};

TEST(Paths, ExchangesArriveWhole) {
  for (const PathOptions& options : all_paths()) {
    SCOPED_TRACE(text_of(options));
    const auto group = group_with(options);
    for (const Counts counts : {none, few, uneven, to_the_last, only_to_oneself, large, one_is_large, few}) {
      Exchange exchange(counts);
      exchange.start(*group);
      EXPECT_TRUE(exchange.recv == exchange.wanted) << exchange.recv.size() << " elements";
    }
  }
}

// Blocks in the reverse order of ranks with a gap before each, as two exchanges under way on the same
// buffers: the first halves of all blocks, and the rest. What lies in the gaps stays.
TEST(Paths, BlocksMayLieAnywhere) {
  constexpr std::int64_t kGap = 3;
  constexpr std::int32_t kUntouched = -7;
  const auto spread = [](const std::vector<std::int64_t>& counts) {
    std::vector<std::int64_t> offsets(counts.size());
    std::int64_t end = 0;
    for (std::size_t peer = counts.size(); peer-- > 0;) {
      offsets[peer] = end + kGap;
      end = offsets[peer] + counts[peer];
    }
    return std::pair(offsets, end);
  };
  for (const PathOptions& options : all_paths()) {
    SCOPED_TRACE(text_of(options));
    const auto group = group_with(options);
    for (const Counts counts : {few, uneven, to_the_last, only_to_oneself, large, none}) {
      const Exchange dense(counts);
      const auto [send_offsets, send_end] = spread(dense.send_counts);
      const auto [recv_offsets, recv_end] = spread(dense.recv_counts);
      std::vector<std::int32_t> send(static_cast<std::size_t>(send_end), kUntouched);
      std::vector<std::int32_t> recv(static_cast<std::size_t>(recv_end), kUntouched);
      std::vector<std::int32_t> wanted = recv;
      auto from = dense.send.begin();
      auto arrived = dense.wanted.begin();
      for (std::size_t peer = 0; peer < send_offsets.size(); ++peer) {
        std::copy_n(from, dense.send_counts[peer], send.begin() + send_offsets[peer]);
        std::copy_n(arrived, dense.recv_counts[peer], wanted.begin() + recv_offsets[peer]);
        from += dense.send_counts[peer];
        arrived += dense.recv_counts[peer];
      }
      const auto start = [&](bool second_half) {
        const auto part = [&](std::vector<std::int64_t> of_counts, std::vector<std::int64_t> of_offsets) {
          for (std::size_t peer = 0; peer < of_counts.size(); ++peer) {
            const std::int64_t half = of_counts[peer] / 2;
            if (second_half) of_offsets[peer] += half;
            of_counts[peer] = second_half ? of_counts[peer] - half : half;
          }
          return std::pair(of_counts, of_offsets);
        };
        const auto [sent_counts, sent_at] = part(dense.send_counts, send_offsets);
        const auto [received_counts, received_at] = part(dense.recv_counts, recv_offsets);
        return group->all_to_all_v(buffer_view(std::span<const std::int32_t>(send)),
                                   Blocks{sent_counts, sent_at}, buffer_view(std::span(recv)),
                                   Blocks{received_counts, received_at});
      };
      Work first = start(false);
      Work second = start(true);
      second.wait();
      first.wait();
      EXPECT_TRUE(recv == wanted) << wanted.size() << " elements with gaps";
    }
  }
}

// An exchange gets to its end by progress() alone, before anyone waits for it.
TEST(Paths, ProgressMovesWhatIsUnderWay) {
  constexpr auto kPatience = std::chrono::seconds(20);
  for (const PathOptions& options : all_paths()) {
    SCOPED_TRACE(text_of(options));
    const auto group = group_with(options);
    Exchange exchange(large);
    Work work = exchange.start(*group);
    const auto last = std::chrono::steady_clock::now() + kPatience;
    while (exchange.recv != exchange.wanted && std::chrono::steady_clock::now() < last) group->progress();
    EXPECT_TRUE(exchange.recv == exchange.wanted);
    work.wait();
  }
}

TEST(Paths, PiecesOfEveryLengthAroundALineAndASlot) {
  const auto group = group_with({Path::kShared, 0});
  for (const std::int64_t bytes : {1, 63, 64, 65, 1023, 1024, 1025, 65'535, 65'536, 65'537, 4 * 65'536 + 1}) {
    std::vector<std::uint8_t> send(static_cast<std::size_t>(bytes * size()));
    for (std::size_t i = 0; i < send.size(); ++i)
      send[i] = static_cast<std::uint8_t>(i * 7 + static_cast<std::size_t>(rank()));
    std::vector<std::uint8_t> recv(send.size() + 1, 0xab);  // one more, which must stay as it is
    group->all_to_all(buffer_view(std::span<const std::uint8_t>(send)),
                      buffer_view(std::span(recv).first(send.size())));
    std::int64_t wrong = recv.back() != 0xab;
    for (std::size_t i = 0; i < send.size(); ++i) {
      const auto n = static_cast<std::size_t>(bytes);
      const std::size_t at = static_cast<std::size_t>(rank()) * n + i % n;
      wrong += recv[i] != static_cast<std::uint8_t>(at * 7 + i / n);
    }
    EXPECT_EQ(wrong, 0) << bytes << " bytes";
  }
}

// Numbers of many magnitudes: adding them in another order gives other bits.
std::vector<float> rough(std::int64_t count, int of_rank) {
  const RandomStream random(1, "rough", static_cast<std::uint64_t>(of_rank));
  std::vector<float> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = std::ldexp(random.normal(i), static_cast<int>(random.bits(i) % 24) - 12);
  }
  return values;
}

TEST(Paths, ReductionsAndGathersGiveTheSameBits) {
  for (const std::int64_t count : {std::int64_t{1}, std::int64_t{4'099}, std::int64_t{300'007}}) {
    std::vector<std::vector<float>> of_rank;
    for (int r = 0; r < size(); ++r) of_rank.push_back(rough(count, r));
    const std::vector<float>& mine = of_rank[static_cast<std::size_t>(rank())];
    std::vector<float> wanted_sum = of_rank[0];
    std::vector<float> wanted_all = of_rank[0];
    std::vector<float> wanted_sum_of_equals = mine;
    for (std::size_t r = 1; r < of_rank.size(); ++r) {
      for (std::size_t i = 0; i < mine.size(); ++i) {
        wanted_sum[i] += of_rank[r][i];
        wanted_sum_of_equals[i] += mine[i];
      }
      wanted_all.insert(wanted_all.end(), of_rank[r].begin(), of_rank[r].end());
    }
    for (const PathOptions& options : all_paths()) {
      SCOPED_TRACE(text_of(options) + fmt::format(", {} elements", count));
      const auto group = group_with(options);
      std::vector<float> sum = mine;
      std::vector<float> another_sum = mine;
      std::vector<float> all(wanted_all.size());
      std::vector<float> own(mine.size());
      Work first = group->all_reduce(buffer_view(std::span(sum)));
      Work second = group->all_reduce(buffer_view(std::span(another_sum)));
      group->all_gather(buffer_view(std::span(mine)), buffer_view(std::span(all)));
      group->reduce_scatter(buffer_view(std::span<const float>(wanted_all)), buffer_view(std::span(own)));
      second.wait();
      first.wait();
      EXPECT_TRUE(sum == wanted_sum);
      EXPECT_TRUE(another_sum == wanted_sum);
      EXPECT_TRUE(all == wanted_all);
      EXPECT_TRUE(own == wanted_sum_of_equals);
    }
  }
}

// Several windows at once, of groups that share ranks; started in one order, waited for in another.
TEST(Paths, GroupsLiveBesideEachOther) {
  const auto all = group_with({Path::kShared, 0}, "all");
  const auto again = group_with({Path::kAuto, 2}, "again");
  const auto over_mpi = group_with({Path::kMpi, 0}, "over_mpi");
  const auto half =
      all->split(rank() % 2, -rank(), "half");  // inherits shared memory; the highest rank first
  for (int repeat = 0; repeat < 3; ++repeat) {
    Exchange first(large);
    Exchange second(uneven);
    Exchange third(large);
    Work works[] = {first.start(*all), second.start(*again), third.start(*over_mpi)};
    std::vector<std::int32_t> ranks(static_cast<std::size_t>(half->size()));
    const std::int32_t mine = rank();
    half->all_gather(buffer_view(std::span(&mine, 1)), buffer_view(std::span(ranks)));
    EXPECT_TRUE(std::ranges::is_sorted(ranks, std::greater<>()));
    // What a rank waits for may need another rank to move the data of another group first.
    for (std::size_t i = 0; i < 3; ++i) works[rank() % 2 == 0 ? i : 2 - i].wait();
    EXPECT_TRUE(first.recv == first.wanted);
    EXPECT_TRUE(second.recv == second.wanted);
    EXPECT_TRUE(third.recv == third.wanted);
  }
}

TEST(Paths, SayWhichWayDataTakes) {
  const auto described = [](const PathOptions& options) { return group_with(options)->describe_paths(); };
  EXPECT_EQ(described({Path::kMpi, 0}), size() == 1 ? "one process" : "MPI");
  EXPECT_EQ(described({Path::kShared, 0}), size() == 1 ? "one process" : "shared memory");
  if (size() < 3) return;
  const int nodes = (size() + 1) / 2;
  EXPECT_EQ(described({Path::kAuto, 2}),
            fmt::format("shared memory inside {} nodes, MPI between them", nodes));
  EXPECT_EQ(
      described({Path::kHierarchical, 2}),
      fmt::format("hierarchical over {} nodes: shared memory inside, one MPI message for each pair of nodes",
                  nodes));
  EXPECT_EQ(described({Path::kAuto, 1}), "MPI");
}

TEST(Paths, RefuseNonsense) { EXPECT_THROW(world().set_paths({Path::kAuto, -1}), Error); }

}  // namespace
}  // namespace conclave::test
