#include "tests/cuda_emulation/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>

#include "tests/cuda_emulation/race_check.h"

namespace emulation {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kAlignment = 256;  // as cudaMalloc's
constexpr int kEndMark = 0xA5;

struct Allocation {
  std::byte* pages = nullptr;  // the accessible ones, between two that aren't
  std::size_t page_bytes = 0;
  std::size_t bytes = 0;
};

// By the first address. One process has one emulation, and one thread drives it. Never destroyed: what lives
// to the end of the process gives its memory back later than that.
std::map<const std::byte*, Allocation>& allocations() {
  static auto& all = *new std::map<const std::byte*, Allocation>;
  return all;
}

// Of pinned memory: bytes by the first address.
std::map<const std::byte*, std::size_t>& pinned() {
  static auto& all = *new std::map<const std::byte*, std::size_t>;
  return all;
}

std::size_t rounded_up(std::size_t bytes, std::size_t unit) { return (bytes + unit - 1) / unit * unit; }

void check_end(const std::byte* memory, const Allocation& allocation) {
  const std::byte* end = memory + allocation.bytes;
  const std::byte* last = allocation.pages + allocation.page_bytes;
  if (std::all_of(end, last, [](std::byte byte) { return byte == std::byte{kEndMark}; })) return;
  std::fprintf(stderr, "emulated GPU: something was written beyond the end of an allocation of %zu bytes\n",
               allocation.bytes);
  std::abort();
}

}  // namespace

void* take_memory(std::size_t bytes) {
  const std::size_t page_bytes = std::max(rounded_up(bytes, kPage), kPage);
  void* mapped =
      mmap(nullptr, page_bytes + 2 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  std::byte* pages = static_cast<std::byte*>(mapped) + kPage;
  if (mprotect(pages, page_bytes, PROT_READ | PROT_WRITE) != 0) {
    munmap(mapped, page_bytes + 2 * kPage);
    return nullptr;
  }
  // As near to the forbidden page behind as the alignment lets it.
  std::byte* memory = pages + page_bytes - rounded_up(bytes, kAlignment);
  std::memset(pages, 0xFF, page_bytes);
  std::fill(memory + bytes, pages + page_bytes, std::byte{kEndMark});
  allocations()[memory] = {pages, page_bytes, bytes};
  watch_memory(pages, page_bytes);
  return memory;
}

bool give_memory_back(void* memory) {
  const auto found = allocations().find(static_cast<const std::byte*>(memory));
  if (found == allocations().end()) return false;
  check_end(found->first, found->second);
  forget_memory(found->second.pages, found->second.page_bytes);
  munmap(found->second.pages - kPage, found->second.page_bytes + 2 * kPage);
  allocations().erase(found);
  return true;
}

bool is_gpu_memory(const void* memory) {
  const auto* address = static_cast<const std::byte*>(memory);
  auto after = allocations().upper_bound(address);
  if (after == allocations().begin()) return false;
  const Allocation& allocation = (--after)->second;
  return address <= allocation.pages + allocation.page_bytes;  // nothing, at the end of an allocation
}

std::size_t offset_in_allocation(const void* memory) {
  const auto* address = static_cast<const std::byte*>(memory);
  const auto after = allocations().upper_bound(address);
  return after == allocations().begin() ? 0 : static_cast<std::size_t>(address - std::prev(after)->first);
}

void* take_pinned_memory(std::size_t bytes) {
  void* memory = std::aligned_alloc(kPage, std::max(rounded_up(bytes, kPage), kPage));
  if (memory == nullptr) return nullptr;
  pinned()[static_cast<const std::byte*>(memory)] = bytes;
  watch_memory(memory, bytes);
  return memory;
}

bool give_pinned_memory_back(void* memory) {
  const auto found = pinned().find(static_cast<const std::byte*>(memory));
  if (found == pinned().end()) return false;
  forget_memory(found->first, found->second);
  pinned().erase(found);
  std::free(memory);
  return true;
}

bool is_pinned_memory(const void* memory) {
  const auto* address = static_cast<const std::byte*>(memory);
  const auto after = pinned().upper_bound(address);
  return after != pinned().begin() && address < std::prev(after)->first + std::prev(after)->second;
}

void check_ends() {
  for (const auto& [memory, allocation] : allocations()) check_end(memory, allocation);
}

void allow_access(bool allowed) {
  for (const auto& [memory, allocation] : allocations())
    mprotect(allocation.pages, allocation.page_bytes, allowed ? PROT_READ | PROT_WRITE : PROT_NONE);
}

}  // namespace emulation
