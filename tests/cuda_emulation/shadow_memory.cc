#include "tests/cuda_emulation/shadow_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

namespace emulation {
namespace {

constexpr unsigned kLog2Coarsest = 2;

std::size_t cells_of_page(unsigned log2_bytes) { return ShadowMemory::kPage >> log2_bytes; }

// By log2_bytes: cells of pages that nobody watches any more.
std::vector<Cell*>& spare_cells(unsigned log2_bytes) {
  static auto& spare = *new std::array<std::vector<Cell*>, kLog2Coarsest + 1>;
  return spare[log2_bytes];
}

Cell* take_cells(unsigned log2_bytes) {
  auto& spare = spare_cells(log2_bytes);
  if (spare.empty()) {
    auto* made = static_cast<Cell*>(std::calloc(cells_of_page(log2_bytes), sizeof(Cell)));
    if (made == nullptr) std::abort();
    return made;
  }
  Cell* cells = spare.back();
  spare.pop_back();
  return cells;
}

}  // namespace

std::uintptr_t& ShadowMemory::entry_of(std::uintptr_t address) {
  std::uintptr_t*& region = regions_[address / kRegion % kRegions];
  if (region == nullptr) {
    void* mapped = mmap(nullptr, kRegion / kPage * sizeof(std::uintptr_t), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) std::abort();
    region = static_cast<std::uintptr_t*>(mapped);
  }
  return region[address % kRegion / kPage];
}

void ShadowMemory::watch(const void* memory, std::size_t bytes, bool is_shared) {
  const auto begin = std::bit_cast<std::uintptr_t>(memory);
  for (std::uintptr_t address = begin / kPage * kPage; address < begin + bytes; address += kPage) {
    std::uintptr_t& entry = entry_of(address);
    if (entry == 0) entry = kLog2Coarsest | (is_shared ? kSharedTag : 0);
  }
}

void ShadowMemory::forget(const void* memory, std::size_t bytes) {
  const auto begin = std::bit_cast<std::uintptr_t>(memory);
  for (std::uintptr_t address = begin / kPage * kPage; address < begin + bytes; address += kPage) {
    const Page page = page_of(address);
    if (page.cells != nullptr) spare_cells(page.log2_bytes).push_back(page.cells);
    if (page.is_watched()) entry_of(address) = 0;
  }
}

ShadowMemory::Page ShadowMemory::refine(std::uintptr_t address, std::size_t bytes) {
  const Page page = page_of(address);
  const unsigned finer = std::min(page.log2_bytes, static_cast<unsigned>(std::countr_zero(address | bytes)));
  if (page.cells != nullptr && finer == page.log2_bytes) return page;
  Cell* cells = take_cells(finer);
  if (page.cells != nullptr) {
    for (std::size_t i = 0; i < cells_of_page(finer); ++i)
      cells[i] = page.cells[i >> (page.log2_bytes - finer)];
    std::fill_n(page.cells, cells_of_page(page.log2_bytes), Cell{});  // of this launch, not an earlier one
    spare_cells(page.log2_bytes).push_back(page.cells);
  }
  entry_of(address) = std::bit_cast<std::uintptr_t>(cells) | finer | (page.is_shared ? kSharedTag : 0);
  return page_of(address);
}

}  // namespace emulation
