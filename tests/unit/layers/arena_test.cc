#include "layers/tensor/arena.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace conclave {
namespace {

constexpr std::int64_t kMegabyte = std::int64_t{1} << 18;  // in fp32 elements

TEST(Arena, AllocationsAreAlignedAndDisjoint) {
  Arena arena;
  const TensorView first = arena.allocate({3});
  const TensorView second = arena.allocate({5}, DType::kFloat64);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(first.raw()) % 64, 0U);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(second.raw()) % 64, 0U);
  EXPECT_GE(static_cast<std::byte*>(second.raw()) - static_cast<std::byte*>(first.raw()), 12);
  EXPECT_EQ(second.dtype(), DType::kFloat64);
  EXPECT_EQ(arena.allocate({0, 7}).elements(), 0);
}

TEST(Arena, ASteadyStepTakesNoSystemMemory) {
  Arena arena;
  const auto step = [&] {
    for (int layer = 0; layer < 6; ++layer) {
      arena.allocate({9, kMegabyte});
      const Arena::Mark scratch(arena);
      arena.allocate({5, kMegabyte});
    }
    arena.reset();
  };
  step();
  const std::int64_t after_first = arena.system_allocations();
  EXPECT_GT(after_first, 1) << "the first step outgrows the first block, or this test shows nothing";
  for (int repeat = 0; repeat < 3; ++repeat) step();
  EXPECT_EQ(arena.system_allocations(), after_first);
  EXPECT_EQ(arena.used_bytes(), 0U);
}

TEST(Arena, MarkGivesBackWhatCameAfterIt) {
  Arena arena;
  arena.allocate({10});
  const std::size_t used = arena.used_bytes();
  void* scratch_memory = nullptr;
  {
    const Arena::Mark scratch(arena);
    scratch_memory = arena.allocate({10}).raw();
    EXPECT_GT(arena.used_bytes(), used);
    const Arena::Mark inner(arena);
    arena.allocate({100, kMegabyte});  // in a block of its own
  }
  EXPECT_EQ(arena.used_bytes(), used);
  EXPECT_EQ(arena.allocate({10}).raw(), scratch_memory);
  EXPECT_GE(arena.peak_bytes(), std::size_t{100} << 20);
}

TEST(Arena, MarkOfAnEmptyArena) {
  Arena arena;
  {
    const Arena::Mark scratch(arena);
    arena.allocate({10});
  }
  EXPECT_EQ(arena.used_bytes(), 0U);
}

// What stands before a Mark keeps its content while the scratch behind it grows into new blocks.
TEST(Arena, GrowthMovesNothing) {
  Arena arena;
  const TensorView kept = arena.allocate({4});
  std::ranges::fill(kept.values<float>(), 3.0F);
  for (int growth = 0; growth < 4; ++growth) {
    const Arena::Mark scratch(arena);
    std::ranges::fill(arena.allocate({8 << growth, kMegabyte}).values<float>(), -1.0F);
  }
  for (const float value : kept.values<float>()) EXPECT_EQ(value, 3.0F);
}

TEST(Buffer, IsZeroAndAligned) {
  const Buffer buffer({3, 5}, DType::kFloat32);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.view().raw()) % 64, 0U);
  for (const float value : buffer.view().values<float>()) EXPECT_EQ(value, 0.0F);
}

}  // namespace
}  // namespace conclave
