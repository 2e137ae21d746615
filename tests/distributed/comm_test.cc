// Every collective on real ranks.
// ranks: 1 2 3 4 7
#include "comm/communicator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <vector>

#include "comm/base/error.h"
#include "comm/process_grid.h"
#include "layers/tensor/philox.h"
#include "tests/support/mpi_environment.h"

namespace conclave::test {
namespace {

// Counts on both sides of the boundary between the two ways of reducing, none divisible by the rank counts.
constexpr std::int64_t kCounts[] = {0, 1, 5, 1013, 4096, 4097, 70001};

int size() { return world().size(); }
int rank() { return world().rank(); }

template <class T>
BufferView view(std::vector<T>& values) {
  return buffer_view(std::span<T>(values));
}

template <class T>
std::vector<T> make(std::int64_t count) {
  return std::vector<T>(static_cast<std::size_t>(count));
}

// What rank r contributes: small integers, exact in every type, whose sums over 7 ranks stay exact as well.
template <class T>
std::vector<T> contribution(std::int64_t count, int r) {
  auto values = make<T>(count);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = T(static_cast<float>((i * 7 + static_cast<std::size_t>(r) * 5) % 17));
  }
  return values;
}

// Numbers of many magnitudes: adding them in another order gives other bits.
std::vector<float> rough_contribution(std::int64_t count, int r) {
  const RandomStream random(1, "rough", static_cast<std::uint64_t>(r));
  auto values = make<float>(count);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const int exponent = static_cast<int>(random.bits(i) % 24) - 12;
    values[i] = std::ldexp(random.normal(i), exponent);
  }
  return values;
}

// True on every rank if `values` has the same bytes on every rank.
template <class T>
bool same_on_all_ranks(std::vector<T> values) {
  std::vector<T> of_rank0 = values;
  world().broadcast(view(of_rank0), 0);
  std::int32_t differs =
      values.empty() || std::memcmp(values.data(), of_rank0.data(), values.size() * sizeof(T)) == 0 ? 0 : 1;
  world().all_reduce(buffer_view(std::span(&differs, 1)));
  return differs == 0;
}

template <class T>
class TypedCollectives : public testing::Test {};
using Types = testing::Types<float, bfloat16, double, std::int32_t, std::int64_t, std::uint8_t>;
TYPED_TEST_SUITE(TypedCollectives, Types);

TYPED_TEST(TypedCollectives, AllReduce) {
  for (const std::int64_t count : kCounts) {
    std::vector<TypeParam> sum = contribution<TypeParam>(count, rank());
    std::vector<TypeParam> largest = sum;
    std::vector<TypeParam> smallest = sum;
    world().all_reduce(view(sum));
    world().all_reduce(view(largest), ReduceOp::kMax);
    world().all_reduce(view(smallest), ReduceOp::kMin);

    std::vector<float> wanted_sum(sum.size());
    std::vector<float> wanted_largest(sum.size(), 0.0F);
    std::vector<float> wanted_smallest(sum.size(), 1000.0F);
    for (int r = 0; r < size(); ++r) {
      const auto values = contribution<TypeParam>(count, r);
      for (std::size_t i = 0; i < values.size(); ++i) {
        wanted_sum[i] += static_cast<float>(values[i]);
        wanted_largest[i] = std::max(wanted_largest[i], static_cast<float>(values[i]));
        wanted_smallest[i] = std::min(wanted_smallest[i], static_cast<float>(values[i]));
      }
    }
    std::int64_t wrong = 0;
    for (std::size_t i = 0; i < sum.size(); ++i) {
      wrong += static_cast<float>(sum[i]) != wanted_sum[i];
      wrong += static_cast<float>(largest[i]) != wanted_largest[i];
      wrong += static_cast<float>(smallest[i]) != wanted_smallest[i];
    }
    EXPECT_EQ(wrong, 0) << "count " << count;
    EXPECT_TRUE(same_on_all_ranks(sum)) << "count " << count;
  }
}

TYPED_TEST(TypedCollectives, ReduceScatter) {
  for (const std::int64_t count : kCounts) {
    const auto send = contribution<TypeParam>(count * size(), rank());
    auto recv = make<TypeParam>(count);
    world().reduce_scatter(buffer_view(std::span(send)), view(recv));
    std::vector<float> wanted(recv.size());
    for (int r = 0; r < size(); ++r) {
      const auto values = contribution<TypeParam>(count * size(), r);
      for (std::size_t i = 0; i < recv.size(); ++i) {
        wanted[i] += static_cast<float>(values[static_cast<std::size_t>(rank()) * recv.size() + i]);
      }
    }
    std::int64_t wrong = 0;
    for (std::size_t i = 0; i < recv.size(); ++i) wrong += static_cast<float>(recv[i]) != wanted[i];
    EXPECT_EQ(wrong, 0) << "count " << count;
  }
}

TYPED_TEST(TypedCollectives, AllGather) {
  for (const std::int64_t count : kCounts) {
    const auto send = contribution<TypeParam>(count, rank());
    auto recv = make<TypeParam>(count * size());
    world().all_gather(buffer_view(std::span(send)), view(recv));

    // In place: the own block is there already.
    auto in_place = make<TypeParam>(count * size());
    const auto own = std::span(in_place).subspan(static_cast<std::size_t>(rank() * count),
                                                 static_cast<std::size_t>(count));
    std::ranges::copy(send, own.begin());
    world().all_gather(buffer_view(own), view(in_place));

    std::vector<TypeParam> wanted;
    for (int r = 0; r < size(); ++r) {
      const auto values = contribution<TypeParam>(count, r);
      wanted.insert(wanted.end(), values.begin(), values.end());
    }
    EXPECT_TRUE(recv == wanted) << "count " << count;
    EXPECT_TRUE(in_place == wanted) << "count " << count;
  }
}

TYPED_TEST(TypedCollectives, BroadcastFromEveryRoot) {
  for (const std::int64_t count : kCounts) {
    for (int root = 0; root < size(); ++root) {
      auto data = contribution<TypeParam>(count, rank());
      world().broadcast(view(data), root);
      EXPECT_TRUE(data == contribution<TypeParam>(count, root)) << "count " << count << ", root " << root;
    }
  }
}

TYPED_TEST(TypedCollectives, AllToAll) {
  for (const std::int64_t count : kCounts) {
    const auto send = contribution<TypeParam>(count * size(), rank());
    auto recv = make<TypeParam>(count * size());
    world().all_to_all(buffer_view(std::span(send)), view(recv));
    std::vector<TypeParam> wanted;
    for (int r = 0; r < size(); ++r) {
      const auto values = contribution<TypeParam>(count * size(), r);
      wanted.insert(wanted.end(), values.begin() + rank() * count, values.begin() + (rank() + 1) * count);
    }
    EXPECT_TRUE(recv == wanted) << "count " << count;
  }
}

// Rank r sends to rank s: nothing on a third of the pairs, a different count on each other pair.
std::int64_t uneven_count(int from, int to) {
  return (from + 2 * to) % 3 == 0 ? 0 : 1 + 311 * from + 17 * to + 5 * from * to;
}
std::int32_t uneven_value(int from, int to, std::int64_t i) {
  return static_cast<std::int32_t>(1'000'000 * from + 100'000 * to + i);
}

struct UnevenExchange {
  std::vector<std::int64_t> send_counts;
  std::vector<std::int64_t> recv_counts;
  std::vector<std::int32_t> send;
  std::vector<std::int32_t> recv;
  std::vector<std::int32_t> wanted;

  UnevenExchange() {
    for (int peer = 0; peer < size(); ++peer) {
      send_counts.push_back(uneven_count(rank(), peer));
      recv_counts.push_back(uneven_count(peer, rank()));
      for (std::int64_t i = 0; i < send_counts.back(); ++i) send.push_back(uneven_value(rank(), peer, i));
      for (std::int64_t i = 0; i < recv_counts.back(); ++i) wanted.push_back(uneven_value(peer, rank(), i));
    }
    recv.resize(wanted.size());
  }
  Work start() { return world().all_to_all_v(view(send), send_counts, view(recv), recv_counts); }
};

TEST(Collectives, AllToAllVUneven) {
  UnevenExchange exchange;
  exchange.start();
  EXPECT_EQ(exchange.recv, exchange.wanted);
}

TEST(Collectives, AllToAllVOneRankReceivesEverything) {
  std::vector<std::int64_t> send_counts(static_cast<std::size_t>(size()), 0);
  std::vector<std::int64_t> recv_counts(static_cast<std::size_t>(size()), rank() == size() - 1 ? 1000 : 0);
  send_counts.back() = 1000;
  std::vector<float> send(1000, static_cast<float>(rank()));
  std::vector<float> recv(rank() == size() - 1 ? 1000U * static_cast<std::size_t>(size()) : 0U);
  world().all_to_all_v(view(send), send_counts, view(recv), recv_counts);
  for (std::size_t i = 0; i < recv.size(); ++i) EXPECT_EQ(recv[i], static_cast<float>(i / 1000));
}

TEST(Collectives, OperationsOverlapAndCompleteInAnyOrder) {
  UnevenExchange first;
  UnevenExchange second;
  Work first_work = first.start();
  Work second_work = second.start();
  std::vector<float> sum(5000, 1.0F);  // a reduction while exchanges are under way
  world().all_reduce(view(sum));
  if (rank() % 2 == 0) {
    first_work.wait();
    second_work.wait();
  } else {
    second_work.wait();
    first_work.wait();
  }
  EXPECT_EQ(first.recv, first.wanted);
  EXPECT_EQ(second.recv, second.wanted);
  EXPECT_EQ(sum, std::vector<float>(5000, static_cast<float>(size())));
}

TEST(Reductions, AddInRankOrder) {
  // 2^25 swallows a 1 that is added to it, so that another order gives another sum.
  for (const std::int64_t count : {std::int64_t{3}, std::int64_t{9001}}) {
    auto data = make<float>(count);
    float wanted = 0.0F;
    const auto value = [](int r) { return r % 3 == 0 ? 1.0F : r % 3 == 1 ? 0x1p25F : -0x1p25F; };
    for (int r = 0; r < size(); ++r) wanted += value(r);
    std::ranges::fill(data, value(rank()));
    world().all_reduce(view(data));
    EXPECT_EQ(data, std::vector<float>(data.size(), wanted));
  }
}

TEST(Reductions, EqualTheOrderedSumBitForBitAndRepeat) {
  for (const std::int64_t count : kCounts) {
    std::vector<float> wanted = rough_contribution(count, 0);
    for (int r = 1; r < size(); ++r) {
      const auto values = rough_contribution(count, r);
      for (std::size_t i = 0; i < wanted.size(); ++i) wanted[i] += values[i];
    }
    for (int repeat = 0; repeat < 3; ++repeat) {
      auto data = rough_contribution(count, rank());
      world().all_reduce(view(data));
      EXPECT_TRUE(data == wanted) << "count " << count << ", repeat " << repeat;
    }
    // reduce_scatter of the same numbers, padded to a multiple of the ranks, gives the same sums.
    const std::int64_t block = (count + size() - 1) / size();
    auto padded = rough_contribution(count, rank());
    padded.resize(static_cast<std::size_t>(block * size()));
    wanted.resize(padded.size());
    auto mine = make<float>(block);
    world().reduce_scatter(view(padded), view(mine));
    EXPECT_TRUE(std::equal(mine.begin(), mine.end(), wanted.begin() + rank() * block)) << "count " << count;
  }
}

TEST(Reductions, PropagateNaN) {
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kMax, ReduceOp::kMin}) {
    for (int bad = 0; bad < size(); ++bad) {
      std::vector<float> data = {1.0F, rank() == bad ? kNaN : 2.0F};
      world().all_reduce(view(data), op);
      EXPECT_FALSE(std::isnan(data[0]));
      EXPECT_TRUE(std::isnan(data[1])) << "from rank " << bad;
    }
  }
}

TEST(Split, GroupsByColorInOrderOfKey) {
  const int color = rank() % 2;
  const auto group = world().split(color, -rank(), "halves");  // the highest rank comes first
  EXPECT_EQ(group->name(), "halves");
  const int members = color == 0 ? (size() + 1) / 2 : size() / 2;
  ASSERT_EQ(group->size(), members);
  std::vector<std::int32_t> ranks(static_cast<std::size_t>(members));
  const std::vector<std::int32_t> mine = {rank()};
  group->all_gather(buffer_view(std::span(mine)), view(ranks));
  std::vector<std::int32_t> wanted;
  for (int r = size() - 1; r >= 0; --r) {
    if (r % 2 == color) wanted.push_back(r);
  }
  EXPECT_EQ(ranks, wanted);
  EXPECT_EQ(wanted[static_cast<std::size_t>(group->rank())], rank());
  const auto part = group->split(0, 0, "part");  // a group of a group
  EXPECT_EQ(part->size(), members);
}

TEST(Split, GroupsDoNotMixTheirMessages) {
  const auto other = world().split(0, 0, "other");
  std::vector<std::int32_t> a = {rank()};
  std::vector<std::int32_t> b = {100 + rank()};
  auto all_a = make<std::int32_t>(size());
  auto all_b = make<std::int32_t>(size());
  Work work_a = world().all_gather(view(a), view(all_a));
  Work work_b = other->all_gather(view(b), view(all_b));
  work_b.wait();
  work_a.wait();
  for (int r = 0; r < size(); ++r) {
    EXPECT_EQ(all_a[static_cast<std::size_t>(r)], r);
    EXPECT_EQ(all_b[static_cast<std::size_t>(r)], 100 + r);
  }
}

TEST(Grid, CoordinatesAndShardsForEveryExpertParallelSize) {
  constexpr std::int64_t kExperts = 10;
  for (int expert_parallel_size = 1; expert_parallel_size <= size(); ++expert_parallel_size) {
    if (size() % expert_parallel_size != 0) {
      EXPECT_THROW(ProcessGrid(world(), expert_parallel_size), ConfigError);
      continue;
    }
    const ProcessGrid grid(world(), expert_parallel_size);
    EXPECT_EQ(grid.expert_parallel().size(), expert_parallel_size);
    EXPECT_EQ(grid.expert_data().size(), size() / expert_parallel_size);
    EXPECT_EQ(grid.expert_data().rank() * expert_parallel_size + grid.expert_parallel().rank(), rank());

    // The shards of one expert-parallel group hold every expert once.
    std::vector<std::int32_t> holders(kExperts, 0);
    const Range held = grid.local_experts(kExperts);
    EXPECT_EQ(held, grid.experts_of(kExperts, grid.expert_parallel().rank()));
    for (std::int64_t e = held.begin; e < held.end; ++e) ++holders[static_cast<std::size_t>(e)];
    grid.expert_parallel().all_reduce(view(holders));
    EXPECT_EQ(holders, std::vector<std::int32_t>(kExperts, 1));

    // The ranks of one expert-data group hold the same experts.
    std::vector<std::int64_t> first = {held.begin};
    std::vector<std::int64_t> last = first;
    grid.expert_data().all_reduce(view(first), ReduceOp::kMin);
    grid.expert_data().all_reduce(view(last), ReduceOp::kMax);
    EXPECT_EQ(first, last);
  }
}

TEST(Mistakes, AreRefusedBeforeAnythingIsSent) {
  std::vector<float> data(static_cast<std::size_t>(4 * size()));
  std::vector<float> other(data.size());
  const std::vector<std::int64_t> too_few(static_cast<std::size_t>(size()), 3);
  EXPECT_THROW(world().all_to_all_v(view(data), too_few, view(other), too_few), Error);
  EXPECT_THROW(world().all_reduce({nullptr, 1, DType::kFloat32, {}}), Error);
  EXPECT_THROW(world().broadcast(view(data), size()), Error);
  EXPECT_THROW(world().split(-1, 0, "nobody"), Error);
  world().barrier();  // and the group still works
}

}  // namespace
}  // namespace conclave::test
