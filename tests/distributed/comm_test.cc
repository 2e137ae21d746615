// Every collective on real ranks: in the memory of the host, on GPUs that NCCL connects, and on one GPU that
// ranks share. Without GPUs these are emulated (tests/cuda_emulation).
//
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
#include "tests/support/collective_places.h"
#include "tests/support/mpi_environment.h"
#include "tests/support/test_gpu.h"

namespace conclave::test {
namespace {

// Counts on both sides of the boundary between the two ways of reducing, none divisible by the rank counts.
constexpr std::int64_t kCounts[] = {0, 1, 5, 1013, 4096, 4097, 70001};

// One for each rank.
const EmulatedGpus kGpus(7);

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
template <class T>
std::vector<T> rough_contribution(std::int64_t count, int r) {
  const RandomStream random(1, "rough", static_cast<std::uint64_t>(r));
  auto values = make<T>(count);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const int exponent = static_cast<int>(random.bits(i) % 24) - 12;
    values[i] = T(std::ldexp(random.normal(i), exponent));
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

template <class Place>
class InPlace : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (Place::exists()) Place::open();
  }
  static void TearDownTestSuite() {
    if (Place::exists()) Place::close();
  }
  void SetUp() override {
    if (!Place::exists()) GTEST_SKIP() << "there are too few GPUs";
  }
};

// An element type and a place.
template <class T, class P>
struct Of {
  using Element = T;
  using Place = P;
};
struct CaseNames {
  template <class Case>
  static std::string GetName(int) {
    if constexpr (requires { Case::kName; })
      return Case::kName;
    else
      return fmt::format("{}_{}", name_of(dtype_of<typename Case::Element>), Case::Place::kName);
  }
};

template <class Case>
class TypedCollectives : public InPlace<typename Case::Place> {};
using Cases = testing::Types<Of<float, HostMemory>, Of<bfloat16, HostMemory>, Of<double, HostMemory>,
                             Of<std::int32_t, HostMemory>, Of<std::int64_t, HostMemory>,
                             Of<std::uint8_t, HostMemory>, Of<float, OwnGpu>, Of<bfloat16, OwnGpu>,
                             Of<double, OwnGpu>, Of<std::int32_t, OwnGpu>, Of<std::int64_t, OwnGpu>,
                             Of<std::uint8_t, OwnGpu>, Of<float, SharedGpu>, Of<bfloat16, SharedGpu>>;
TYPED_TEST_SUITE(TypedCollectives, Cases, CaseNames);

TYPED_TEST(TypedCollectives, AllReduce) {
  using T = typename TypeParam::Element;
  using Place = typename TypeParam::Place;
  for (const std::int64_t count : kCounts) {
    Elements<T, Place> sum_data(contribution<T>(count, rank()));
    Elements<T, Place> largest_data(contribution<T>(count, rank()));
    Elements<T, Place> smallest_data(contribution<T>(count, rank()));
    Place::world().all_reduce(sum_data.view());
    Place::world().all_reduce(largest_data.view(), ReduceOp::kMax);
    Place::world().all_reduce(smallest_data.view(), ReduceOp::kMin);
    const std::vector<T> sum = sum_data.values();
    const std::vector<T> largest = largest_data.values();
    const std::vector<T> smallest = smallest_data.values();

    std::vector<float> wanted_sum(sum.size());
    std::vector<float> wanted_largest(sum.size(), 0.0F);
    std::vector<float> wanted_smallest(sum.size(), 1000.0F);
    for (int r = 0; r < size(); ++r) {
      const auto values = contribution<T>(count, r);
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
  using T = typename TypeParam::Element;
  using Place = typename TypeParam::Place;
  for (const std::int64_t count : kCounts) {
    Elements<T, Place> send(contribution<T>(count * size(), rank()));
    Elements<T, Place> recv(count);
    Place::world().reduce_scatter(send.view(), recv.view());
    const std::vector<T> found = recv.values();
    std::vector<float> wanted(found.size());
    for (int r = 0; r < size(); ++r) {
      const auto values = contribution<T>(count * size(), r);
      for (std::size_t i = 0; i < wanted.size(); ++i) {
        wanted[i] += static_cast<float>(values[static_cast<std::size_t>(rank()) * wanted.size() + i]);
      }
    }
    std::int64_t wrong = 0;
    for (std::size_t i = 0; i < found.size(); ++i) wrong += static_cast<float>(found[i]) != wanted[i];
    EXPECT_EQ(wrong, 0) << "count " << count;
    EXPECT_TRUE(send.values() == contribution<T>(count * size(), rank())) << "count " << count;
  }
}

TYPED_TEST(TypedCollectives, AllGather) {
  using T = typename TypeParam::Element;
  using Place = typename TypeParam::Place;
  for (const std::int64_t count : kCounts) {
    const std::vector<T> mine = contribution<T>(count, rank());
    Elements<T, Place> send(mine);
    Elements<T, Place> recv(count * size());
    Place::world().all_gather(send.view(), recv.view());

    // In place: the own block is there already.
    auto with_mine = make<T>(count * size());
    std::ranges::copy(mine, with_mine.begin() + rank() * count);
    Elements<T, Place> in_place(with_mine);
    Place::world().all_gather(in_place.part(rank() * count, count), in_place.view());

    std::vector<T> wanted;
    for (int r = 0; r < size(); ++r) {
      const auto values = contribution<T>(count, r);
      wanted.insert(wanted.end(), values.begin(), values.end());
    }
    EXPECT_TRUE(recv.values() == wanted) << "count " << count;
    EXPECT_TRUE(in_place.values() == wanted) << "count " << count;
  }
}

TYPED_TEST(TypedCollectives, BroadcastFromEveryRoot) {
  using T = typename TypeParam::Element;
  using Place = typename TypeParam::Place;
  for (const std::int64_t count : kCounts) {
    for (int root = 0; root < size(); ++root) {
      Elements<T, Place> data(contribution<T>(count, rank()));
      Place::world().broadcast(data.view(), root);
      EXPECT_TRUE(data.values() == contribution<T>(count, root)) << "count " << count << ", root " << root;
    }
  }
}

TYPED_TEST(TypedCollectives, AllToAll) {
  using T = typename TypeParam::Element;
  using Place = typename TypeParam::Place;
  for (const std::int64_t count : kCounts) {
    Elements<T, Place> send(contribution<T>(count * size(), rank()));
    Elements<T, Place> recv(count * size());
    Place::world().all_to_all(send.view(), recv.view());
    std::vector<T> wanted;
    for (int r = 0; r < size(); ++r) {
      const auto values = contribution<T>(count * size(), r);
      wanted.insert(wanted.end(), values.begin() + rank() * count, values.begin() + (rank() + 1) * count);
    }
    EXPECT_TRUE(recv.values() == wanted) << "count " << count;
  }
}

// Rank r sends to rank s: nothing on a third of the pairs, a different count on each other pair.
std::int64_t uneven_count(int from, int to) {
  return (from + 2 * to) % 3 == 0 ? 0 : 1 + 311 * from + 17 * to + 5 * from * to;
}
std::int32_t uneven_value(int from, int to, std::int64_t i) {
  return static_cast<std::int32_t>(1'000'000 * from + 100'000 * to + i);
}

struct UnevenCounts {
  std::vector<std::int64_t> send_counts;
  std::vector<std::int64_t> recv_counts;
  std::vector<std::int32_t> sent;
  std::vector<std::int32_t> wanted;

  UnevenCounts() {
    for (int peer = 0; peer < size(); ++peer) {
      send_counts.push_back(uneven_count(rank(), peer));
      recv_counts.push_back(uneven_count(peer, rank()));
      for (std::int64_t i = 0; i < send_counts.back(); ++i) sent.push_back(uneven_value(rank(), peer, i));
      for (std::int64_t i = 0; i < recv_counts.back(); ++i) wanted.push_back(uneven_value(peer, rank(), i));
    }
  }
};

template <class Place>
struct UnevenExchange : UnevenCounts {
  Elements<std::int32_t, Place> send{sent};
  Elements<std::int32_t, Place> recv{static_cast<std::int64_t>(wanted.size())};

  Work start() { return Place::world().all_to_all_v(send.view(), send_counts, recv.view(), recv_counts); }
};

template <class Place>
class Collectives : public InPlace<Place> {};
using Places = testing::Types<HostMemory, OwnGpu, SharedGpu>;
TYPED_TEST_SUITE(Collectives, Places, CaseNames);

TYPED_TEST(Collectives, TakeTheWayOfTheirPlace) {
  const std::string way = TypeParam::world().describe_paths();
  if constexpr (std::is_same_v<TypeParam, OwnGpu>) {
    EXPECT_EQ(way.substr(0, 5), size() == 1 ? "one G" : "NCCL ");
  } else if constexpr (std::is_same_v<TypeParam, SharedGpu>) {
    EXPECT_EQ(way, size() == 1 ? "one GPU" : "shared memory through the host's memory: ranks share a GPU");
  } else {
    EXPECT_EQ(way, size() == 1 ? "one process" : "shared memory");
  }
}

TYPED_TEST(Collectives, AllToAllVUneven) {
  UnevenExchange<TypeParam> exchange;
  exchange.start();
  EXPECT_EQ(exchange.recv.values(), exchange.wanted);
}

// Blocks in the reverse order of ranks, with a gap before each.
struct Gapped {
  static constexpr std::int64_t kGap = 3;
  static constexpr std::int32_t kUntouched = -7;

  std::vector<std::int64_t> offsets;
  std::vector<std::int32_t> values;

  Gapped(const std::vector<std::int64_t>& counts, const std::vector<std::int32_t>& dense)
      : offsets(counts.size()), values(dense.size() + counts.size() * kGap, kUntouched) {
    auto from = dense.end();
    std::int64_t end = 0;
    for (std::size_t peer = counts.size(); peer-- > 0; end = offsets[peer] + counts[peer]) {
      offsets[peer] = end + kGap;
      from -= counts[peer];
      std::copy_n(from, counts[peer], values.begin() + offsets[peer]);
    }
  }
};

TYPED_TEST(Collectives, AllToAllVOfBlocksAnywhere) {
  const UnevenCounts dense;
  const Gapped sent(dense.send_counts, dense.sent);
  const Gapped wanted(dense.recv_counts, dense.wanted);
  Elements<std::int32_t, TypeParam> send(sent.values);
  Elements<std::int32_t, TypeParam> recv(std::vector<std::int32_t>(wanted.values.size(), Gapped::kUntouched));
  TypeParam::world().all_to_all_v(send.view(), Blocks{dense.send_counts, sent.offsets}, recv.view(),
                                  Blocks{dense.recv_counts, wanted.offsets});
  EXPECT_EQ(recv.values(), wanted.values);
}

TYPED_TEST(Collectives, AllToAllVOneRankReceivesEverything) {
  std::vector<std::int64_t> send_counts(static_cast<std::size_t>(size()), 0);
  std::vector<std::int64_t> recv_counts(static_cast<std::size_t>(size()), rank() == size() - 1 ? 1000 : 0);
  send_counts.back() = 1000;
  Elements<float, TypeParam> send(std::vector<float>(1000, static_cast<float>(rank())));
  Elements<float, TypeParam> recv(rank() == size() - 1 ? 1000 * size() : 0);
  TypeParam::world().all_to_all_v(send.view(), send_counts, recv.view(), recv_counts);
  const std::vector<float> found = recv.values();
  for (std::size_t i = 0; i < found.size(); ++i) EXPECT_EQ(found[i], static_cast<float>(i / 1000));
}

TYPED_TEST(Collectives, OperationsOverlapAndCompleteInAnyOrder) {
  UnevenExchange<TypeParam> first;
  UnevenExchange<TypeParam> second;
  Work first_work = first.start();
  Work second_work = second.start();
  Elements<float, TypeParam> sum(
      std::vector<float>(5000, 1.0F));  // a reduction while exchanges are under way
  TypeParam::world().all_reduce(sum.view());
  if (rank() % 2 == 0) {
    first_work.wait();
    second_work.wait();
  } else {
    second_work.wait();
    first_work.wait();
  }
  EXPECT_EQ(first.recv.values(), first.wanted);
  EXPECT_EQ(second.recv.values(), second.wanted);
  EXPECT_EQ(sum.values(), std::vector<float>(5000, static_cast<float>(size())));
}

TYPED_TEST(Collectives, ReductionsAddInRankOrder) {
  // 2^25 swallows a 1 that is added to it, so that another order gives another sum.
  for (const std::int64_t count : {std::int64_t{3}, std::int64_t{9001}}) {
    float wanted = 0.0F;
    const auto value = [](int r) { return r % 3 == 0 ? 1.0F : r % 3 == 1 ? 0x1p25F : -0x1p25F; };
    for (int r = 0; r < size(); ++r) wanted += value(r);
    Elements<float, TypeParam> data(std::vector<float>(static_cast<std::size_t>(count), value(rank())));
    TypeParam::world().all_reduce(data.view());
    EXPECT_EQ(data.values(), std::vector<float>(static_cast<std::size_t>(count), wanted));
  }
}

TYPED_TEST(Collectives, ReductionsEqualTheOrderedSumBitForBitAndRepeat) {
  for (const std::int64_t count : kCounts) {
    std::vector<float> wanted = rough_contribution<float>(count, 0);
    for (int r = 1; r < size(); ++r) {
      const auto values = rough_contribution<float>(count, r);
      for (std::size_t i = 0; i < wanted.size(); ++i) wanted[i] += values[i];
    }
    for (int repeat = 0; repeat < 3; ++repeat) {
      Elements<float, TypeParam> data(rough_contribution<float>(count, rank()));
      TypeParam::world().all_reduce(data.view());
      EXPECT_TRUE(data.values() == wanted) << "count " << count << ", repeat " << repeat;
    }
    // reduce_scatter of the same numbers, padded to a multiple of the ranks, gives the same sums.
    const std::int64_t block = (count + size() - 1) / size();
    auto padded = rough_contribution<float>(count, rank());
    padded.resize(static_cast<std::size_t>(block * size()));
    wanted.resize(padded.size());
    Elements<float, TypeParam> all(padded);
    Elements<float, TypeParam> mine(block);
    TypeParam::world().reduce_scatter(all.view(), mine.view());
    const std::vector<float> found = mine.values();
    EXPECT_TRUE(std::equal(found.begin(), found.end(), wanted.begin() + rank() * block)) << "count " << count;
  }
}

// bfloat16 is added in float32 and rounded once.
TYPED_TEST(Collectives, ReductionsRoundOnce) {
  for (const std::int64_t count : {std::int64_t{1013}, std::int64_t{9001}}) {
    std::vector<bfloat16> wanted;
    std::vector<float> sums(static_cast<std::size_t>(count));
    for (int r = 0; r < size(); ++r) {
      const auto values = rough_contribution<bfloat16>(count, r);
      for (std::size_t i = 0; i < sums.size(); ++i)
        sums[i] = r == 0 ? static_cast<float>(values[i]) : sums[i] + static_cast<float>(values[i]);
    }
    for (const float sum : sums) wanted.emplace_back(sum);
    Elements<bfloat16, TypeParam> data(rough_contribution<bfloat16>(count, rank()));
    TypeParam::world().all_reduce(data.view());
    EXPECT_TRUE(data.values() == wanted) << "count " << count;
  }
}

TYPED_TEST(Collectives, ReductionsPropagateNaN) {
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kMax, ReduceOp::kMin}) {
    for (int bad = 0; bad < size(); ++bad) {
      Elements<float, TypeParam> data(std::vector<float>{1.0F, rank() == bad ? kNaN : 2.0F});
      TypeParam::world().all_reduce(data.view(), op);
      const std::vector<float> found = data.values();
      EXPECT_FALSE(std::isnan(found[0]));
      EXPECT_TRUE(std::isnan(found[1])) << "from rank " << bad;
    }
  }
}

TYPED_TEST(Collectives, SplitGroupsByColorInOrderOfKey) {
  const int color = rank() % 2;
  const auto group = TypeParam::world().split(color, -rank(), "halves");  // the highest rank comes first
  EXPECT_EQ(group->name(), "halves");
  const int members = color == 0 ? (size() + 1) / 2 : size() / 2;
  ASSERT_EQ(group->size(), members);
  Elements<std::int32_t, TypeParam> ranks(members);
  Elements<std::int32_t, TypeParam> mine(std::vector<std::int32_t>{rank()});
  group->all_gather(mine.view(), ranks.view());
  std::vector<std::int32_t> wanted;
  for (int r = size() - 1; r >= 0; --r) {
    if (r % 2 == color) wanted.push_back(r);
  }
  EXPECT_EQ(ranks.values(), wanted);
  EXPECT_EQ(wanted[static_cast<std::size_t>(group->rank())], rank());
  const auto part = group->split(0, 0, "part");  // a group of a group
  EXPECT_EQ(part->size(), members);
}

TYPED_TEST(Collectives, SplitGroupsDoNotMixTheirMessages) {
  const auto other = TypeParam::world().split(0, 0, "other");
  Elements<std::int32_t, TypeParam> a(std::vector<std::int32_t>{rank()});
  Elements<std::int32_t, TypeParam> b(std::vector<std::int32_t>{100 + rank()});
  Elements<std::int32_t, TypeParam> all_a(size());
  Elements<std::int32_t, TypeParam> all_b(size());
  Work work_a = TypeParam::world().all_gather(a.view(), all_a.view());
  Work work_b = other->all_gather(b.view(), all_b.view());
  work_b.wait();
  work_a.wait();
  for (int r = 0; r < size(); ++r) {
    EXPECT_EQ(all_a.values()[static_cast<std::size_t>(r)], r);
    EXPECT_EQ(all_b.values()[static_cast<std::size_t>(r)], 100 + r);
  }
}

// Counts and scalars, beside what lies on a GPU.
TYPED_TEST(Collectives, HostMemoryIsThereWhenTheWorkIsDone) {
  std::vector<std::int64_t> sum = {rank(), 1};
  Elements<float, TypeParam> beside(std::vector<float>(5000, 1.0F));
  Work work = TypeParam::world().all_reduce(beside.view());
  TypeParam::world().all_reduce(view(sum));
  EXPECT_EQ(sum, (std::vector<std::int64_t>{size() * (size() - 1) / 2, size()}));
  work.wait();
  EXPECT_EQ(beside.values(), std::vector<float>(5000, static_cast<float>(size())));
}

TYPED_TEST(Collectives, GridHasCoordinatesAndShardsForEveryExpertParallelSize) {
  constexpr std::int64_t kExperts = 10;
  for (int expert_parallel_size = 1; expert_parallel_size <= size(); ++expert_parallel_size) {
    if (size() % expert_parallel_size != 0) {
      EXPECT_THROW(ProcessGrid(TypeParam::world(), expert_parallel_size), ConfigError);
      continue;
    }
    const ProcessGrid grid(TypeParam::world(), expert_parallel_size);
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
