// What is remembered of each byte that threads of a kernel share: who read and who wrote it last.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace emulation {

// A moment and a thread (race_check.cc).
using Mark = std::uint64_t;

struct Cell {
  Mark read;
  Mark write;
  std::uint32_t read_at;  // in the program's code
  std::uint32_t write_at;
};

// By the page of an address. A page begins with cells of four bytes and gets finer ones once somebody touches
// less.
class ShadowMemory {
 public:
  static constexpr std::size_t kPage = 4096;

  struct Page {
    Cell* cells = nullptr;    // null: nobody watches it, or nobody has touched it yet
    unsigned log2_bytes = 0;  // of a cell
    bool is_shared = false;   // of a block, not of the GPU

    bool is_watched() const { return cells != nullptr || log2_bytes != 0; }
  };

  // Whole pages. What is remembered of others that lay there before is older than any launch to come.
  void watch(const void* memory, std::size_t bytes, bool is_shared);
  void forget(const void* memory, std::size_t bytes);

  Page page_of(std::uintptr_t address) const {
    const std::uintptr_t* of_region = regions_[address / kRegion % kRegions];
    if (of_region == nullptr) return {};
    const std::uintptr_t entry = of_region[address % kRegion / kPage];
    return {std::bit_cast<Cell*>(entry & ~kTags), static_cast<unsigned>(entry & kSizeTag),
            (entry & kSharedTag) != 0};
  }
  // The watched page that `address` lies in gets cells, small enough to begin and end where these bytes do.
  Page refine(std::uintptr_t address, std::size_t bytes);

 private:
  static constexpr std::uintptr_t kRegion = std::uintptr_t{1} << 30;
  static constexpr std::size_t kRegions = std::size_t{1} << 17;  // of 47 bits of addresses
  static constexpr std::uintptr_t kSizeTag = 3;
  static constexpr std::uintptr_t kSharedTag = 4;
  static constexpr std::uintptr_t kTags = kSizeTag | kSharedTag;

  std::uintptr_t& entry_of(std::uintptr_t address);

  std::array<std::uintptr_t*, kRegions> regions_{};
};

}  // namespace emulation
