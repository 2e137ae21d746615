#include "tests/cuda_emulation/race_check.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <optional>
#include <vector>

#include "tests/cuda_emulation/block.h"
#include "tests/cuda_emulation/memory.h"
#include "tests/cuda_emulation/source_lines.h"

extern "C" char __data_start;  // NOLINT: the linker's
extern "C" char _end;          // NOLINT

namespace emulation {
namespace {

// Marks: the moment in the upper 48 bits, a thread of the block in the lower ten. Moments are counted over
// the life of the program: whatever orders threads, or begins, begins a new one.
constexpr Mark kThread = 0x3FF;
constexpr Mark kWarp = kThread & ~Mark{31};
constexpr Mark kManyLanes = 1U << 10;    // others of this warp as well, at the same moment of their warp
constexpr Mark kManyWarps = 1U << 11;    // other warps as well, at the same moment of the block
constexpr Mark kOtherBlocks = 1U << 12;  // other blocks as well, in the same launch
constexpr Mark kAdded = 1U << 13;        // atomically
constexpr Mark kMoment = 1U << 16;       // one of it

// Every access of every kernel passes through these.
#define CONCLAVE_HOT [[gnu::always_inline]] inline

enum class Touch { kRead, kWrite, kAtomic };

// Where in memory, and where in the code.
struct Place {
  std::uintptr_t address;
  std::uint32_t at;
  bool is_shared;  // memory of a block
};

// The later one of two that race, and the earlier one.
struct Race {
  Place place;
  Touch earlier;
  Touch later;
  Mark earlier_mark;
  Mark later_mark;
  std::uint32_t earlier_at;
};

struct State {
  Mark mark = 0;           // of this thread and moment
  Mark block_has_met = 0;  // what has an earlier mark is ordered before the present by a barrier
  Mark warp_has_met = 0;   // likewise if it is of this thread's warp
  Mark block_began = 0;
  Mark launch_began = 0;
  bool is_instrumented = false;
  std::array<Mark, 32> warps_have_met{};
  std::vector<Mark> blocks_began;  // in this launch
  std::optional<Race> race;
  ShadowMemory shadow;
};
State now;
// Of the thread that runs a grid. Others of the host may be in code that is instrumented, too.
thread_local bool is_on = false;

Mark moment() { return now.mark & ~(kMoment - 1); }
Mark next_moment() {
  now.mark += kMoment;
  return moment();
}

CONCLAVE_HOT bool is_other_warp(Mark mark) { return ((mark ^ now.mark) & kWarp) != 0; }

// Whether nothing orders what has this mark before the present.
CONCLAVE_HOT bool is_unordered(Mark mark, bool is_shared) {
  if (mark >= now.block_has_met) {
    if ((mark & (kManyWarps | kOtherBlocks)) != 0 || is_other_warp(mark)) return true;
    return mark >= now.warp_has_met && ((mark & kManyLanes) != 0 || ((mark ^ now.mark) & kThread) != 0);
  }
  if (is_shared || mark < now.launch_began) return false;
  return mark < now.block_began || (mark & kOtherBlocks) != 0;
}

// The present mark, with what has to be remembered of `before`, which it takes the place of.
CONCLAVE_HOT Mark following(Mark before, bool is_shared) {
  if (before >= now.block_has_met) {
    Mark mark = now.mark | (before & (kManyWarps | kOtherBlocks));
    if (is_other_warp(before)) return mark | kManyWarps;
    if (before >= now.warp_has_met && ((before & kManyLanes) != 0 || ((before ^ now.mark) & kThread) != 0))
      mark |= kManyLanes;
    return mark;
  }
  if (is_shared || before < now.launch_began) return now.mark;
  return now.mark | (before < now.block_began ? kOtherBlocks : before & kOtherBlocks);
}

[[gnu::cold]] void report(const Race& race) {
  if (!now.race) now.race = race;
  is_on = false;  // one is enough
}
[[gnu::cold]] [[gnu::noinline]] void report_write(const Cell& cell, const Place& place, Touch later) {
  const Touch earlier = (cell.write & kAdded) != 0 ? Touch::kAtomic : Touch::kWrite;
  report({place, earlier, later, cell.write, now.mark, cell.write_at});
}
[[gnu::cold]] [[gnu::noinline]] void report_read(const Cell& cell, const Place& place, Touch later) {
  report({place, Touch::kRead, later, cell.read, now.mark, cell.read_at});
}

// Whether this thread has touched it so, at this moment.
template <Touch kTouch>
bool is_noted(const Cell& cell) {
  constexpr Mark kFlags = kManyLanes | kManyWarps | kOtherBlocks;
  return kTouch == Touch::kRead ? (cell.read & ~kFlags) == now.mark : cell.write == now.mark;
}

template <Touch kTouch>
CONCLAVE_HOT void touch_cell(Cell& cell, const Place& place) {
  if (is_noted<kTouch>(cell)) return;
  if constexpr (kTouch == Touch::kRead) {
    if (is_unordered(cell.write, place.is_shared)) return report_write(cell, place, kTouch);
    cell.read = following(cell.read, place.is_shared);
    cell.read_at = place.at;
  } else {
    if (is_unordered(cell.read, place.is_shared)) return report_read(cell, place, kTouch);
    const bool add_both = kTouch == Touch::kAtomic && (cell.write & kAdded) != 0;
    if (!add_both && is_unordered(cell.write, place.is_shared)) return report_write(cell, place, kTouch);
    if (add_both) {
      cell.write = following(cell.write, place.is_shared) | kAdded;
    } else {
      // What this thread has just written otherwise stays more than an addition to others.
      const bool is_addition =
          kTouch == Touch::kAtomic && (cell.write < now.warp_has_met || cell.write < now.block_has_met);
      cell.write = now.mark | (is_addition ? kAdded : 0);
    }
    cell.write_at = place.at;
  }
}

// Calls function(cell, its place) for all that is watched.
template <class Function>
void for_each_cell(std::uintptr_t address, std::size_t bytes, std::uint32_t at, Function function) {
  ShadowMemory::Page page = now.shadow.page_of(address);
  if (!page.is_watched()) return;
  const std::uintptr_t offset = address % ShadowMemory::kPage;
  if (offset + bytes > ShadowMemory::kPage) {
    const std::size_t here = ShadowMemory::kPage - offset;
    for_each_cell(address, here, at, function);
    for_each_cell(address + here, bytes - here, at, function);
    return;
  }
  const std::uintptr_t within_cell = (std::uintptr_t{1} << page.log2_bytes) - 1;
  if (page.cells == nullptr || ((address | bytes) & within_cell) != 0)
    page = now.shadow.refine(address, bytes);
  Cell* cell = page.cells + (offset >> page.log2_bytes);
  Cell* const end = page.cells + ((offset + bytes) >> page.log2_bytes);
  for (; cell != end; ++cell, address += std::uintptr_t{1} << page.log2_bytes)
    function(*cell, Place{address, at, page.is_shared});
}

template <Touch kTouch>
[[gnu::noinline]] void touch_anywhere(std::uintptr_t address, std::size_t bytes, std::uint32_t at) {
  for_each_cell(address, bytes, at, [](Cell& cell, const Place& place) { touch_cell<kTouch>(cell, place); });
}

template <Touch kTouch>
CONCLAVE_HOT void touch(const void* memory, std::size_t bytes, const void* where) {
  if (!is_on) return;
  const auto address = std::bit_cast<std::uintptr_t>(memory);
  const ShadowMemory::Page page = now.shadow.page_of(address);
  if (!page.is_watched()) return;
  const std::uint32_t at = place_in_code(where);
  // Most touch one cell.
  if (page.cells == nullptr || bytes != std::size_t{1} << page.log2_bytes || address % bytes != 0)
    return touch_anywhere<kTouch>(address, bytes, at);
  touch_cell<kTouch>(page.cells[address % ShadowMemory::kPage >> page.log2_bytes],
                     {address, at, page.is_shared});
}

// A kernel's __shared__ variables are those of the program that it touches.
void watch_variables() {
  static const bool once = [] {
    now.shadow.watch(&__data_start, static_cast<std::size_t>(&_end - &__data_start), true);
    return true;
  }();
  static_cast<void>(once);
}

bool is_asked_for() {
  const char* text = std::getenv("CONCLAVE_EMULATION_RACES");
  return text == nullptr || std::atoi(text) != 0;
}

std::string index_of_block(std::size_t number) {
  return std::to_string(number % gridDim.x) + ", " + std::to_string(number / gridDim.x % gridDim.y) + ", " +
         std::to_string(number / gridDim.x / gridDim.y);
}

std::string name_of(Touch touch) {
  return touch == Touch::kRead ? "reads" : touch == Touch::kWrite ? "writes" : "adds to";
}

std::string name_of_place(const Race& race) {
  const auto* address = std::bit_cast<const std::byte*>(race.place.address);
  if (!race.place.is_shared)
    return "byte " + std::to_string(offset_in_allocation(address)) + " of an allocation";
  const auto* dynamic = static_cast<const std::byte*>(dynamic_shared_memory());
  if (address >= dynamic && address < dynamic + kMaxSharedBytes)
    return "byte " + std::to_string(address - dynamic) + " of shared memory";
  return "a __shared__ variable";
}

std::string describe(Mark mark, Touch touch, std::uint32_t at) {
  const auto began = std::ranges::upper_bound(now.blocks_began, mark) - now.blocks_began.begin();
  const bool has_others = (mark & (kManyLanes | kManyWarps | kOtherBlocks)) != 0;
  return "thread " + std::to_string(mark & kThread) + (has_others ? " (and others)" : "") + " of block (" +
         index_of_block(static_cast<std::size_t>(began - 1)) + ") " + name_of(touch) + " it in " +
         line_of_code(at);
}

}  // namespace

void watch_memory(const void* memory, std::size_t bytes) { now.shadow.watch(memory, bytes, false); }
void forget_memory(const void* memory, std::size_t bytes) { now.shadow.forget(memory, bytes); }

void begin_race_check() {
  now.race.reset();
  is_on = now.is_instrumented && is_asked_for();
  if (!is_on) return;
  watch_variables();
  now.blocks_began.clear();
  now.launch_began = next_moment();
}

void begin_block_of_race_check() {
  now.block_began = now.block_has_met = next_moment();
  now.blocks_began.push_back(now.block_began);
  now.warps_have_met.fill(now.block_began);
}

void end_race_check() { is_on = false; }

void enter_thread(unsigned thread) {
  now.mark = moment() | thread;
  now.warp_has_met = now.warps_have_met[thread / warpSize];
}

void order_block() { now.block_has_met = next_moment(); }

void order_warp() { now.warp_has_met = now.warps_have_met[(now.mark & kThread) / warpSize] = next_moment(); }

void note_read(const void* memory, std::size_t bytes, const void* where) {
  touch<Touch::kRead>(memory, bytes, where);
}
void note_write(const void* memory, std::size_t bytes, const void* where) {
  touch<Touch::kWrite>(memory, bytes, where);
}
void note_atomic(const void* memory, std::size_t bytes, const void* where) {
  touch<Touch::kAtomic>(memory, bytes, where);
}

Mark begin_interval() { return next_moment(); }

void note_end_of_read(Mark begin, const void* memory, std::size_t bytes, const void* where) {
  if (!is_on) return;
  for_each_cell(std::bit_cast<std::uintptr_t>(memory), bytes, place_in_code(where),
                [begin](Cell& cell, const Place& place) {
                  if (cell.write >= begin) return report_write(cell, place, Touch::kRead);
                  touch_cell<Touch::kRead>(cell, place);
                });
}

void note_end_of_write(Mark begin, const void* memory, std::size_t bytes, const void* where) {
  if (!is_on) return;
  for_each_cell(std::bit_cast<std::uintptr_t>(memory), bytes, place_in_code(where),
                [begin](Cell& cell, const Place& place) {
                  if (cell.write >= begin) return report_write(cell, place, Touch::kWrite);
                  if (cell.read >= begin) return report_read(cell, place, Touch::kWrite);
                  touch_cell<Touch::kWrite>(cell, place);
                });
}

std::string race_found() {
  if (!now.race) return {};
  const Race& race = *now.race;
  return "a race on " + name_of_place(race) + ": " +
         describe(race.earlier_mark, race.earlier, race.earlier_at) + ", " +
         describe(race.later_mark, race.later, race.place.at) + ", no barrier between";
}

}  // namespace emulation

using emulation::touch;
using emulation::Touch;

// What instrumented code calls.
extern "C" {

void __tsan_init() { emulation::now.is_instrumented = true; }
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

#define CONCLAVE_HOOKS(bytes)                                                                                \
  void __tsan_read##bytes(void* memory) { touch<Touch::kRead>(memory, bytes, __builtin_return_address(0)); } \
  void __tsan_write##bytes(void* memory) {                                                                   \
    touch<Touch::kWrite>(memory, bytes, __builtin_return_address(0));                                        \
  }                                                                                                          \
  void __tsan_unaligned_read##bytes(void* memory) {                                                          \
    touch<Touch::kRead>(memory, bytes, __builtin_return_address(0));                                         \
  }                                                                                                          \
  void __tsan_unaligned_write##bytes(void* memory) {                                                         \
    touch<Touch::kWrite>(memory, bytes, __builtin_return_address(0));                                        \
  }
CONCLAVE_HOOKS(1)
CONCLAVE_HOOKS(2)
CONCLAVE_HOOKS(4)
CONCLAVE_HOOKS(8)
CONCLAVE_HOOKS(16)
#undef CONCLAVE_HOOKS

void __tsan_read_range(void* memory, std::size_t bytes) {
  touch<Touch::kRead>(memory, bytes, __builtin_return_address(0));
}
void __tsan_write_range(void* memory, std::size_t bytes) {
  touch<Touch::kWrite>(memory, bytes, __builtin_return_address(0));
}
}
