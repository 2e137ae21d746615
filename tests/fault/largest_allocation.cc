#include "tests/fault/largest_allocation.h"

#include <atomic>
#include <cstdlib>
#include <new>

namespace conclave::test {
namespace {
std::atomic<std::size_t> largest = 0;
}  // namespace

void forget_allocations() { largest = 0; }
std::size_t largest_allocation() { return largest; }

static void note_allocation(std::size_t bytes) {
  std::size_t before = largest;
  while (bytes > before && !largest.compare_exchange_weak(before, bytes)) {
  }
}

}  // namespace conclave::test

// Every allocation of the program passes here.
void* operator new(std::size_t bytes) {
  conclave::test::note_allocation(bytes);
  if (void* memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
