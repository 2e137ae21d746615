// The memory of the emulated GPUs: each allocation stands alone between pages that nobody may touch.
#pragma once

#include <cstddef>

namespace emulation {

void* take_memory(std::size_t bytes);  // full of bytes 0xFF, which are NaNs; null if there is none
bool give_memory_back(void* memory);   // false if it is none of ours
bool is_gpu_memory(const void* memory);
std::size_t offset_in_allocation(const void* memory);  // of a GPU
// Of the host, and nobody is forbidden to touch it.
void* take_pinned_memory(std::size_t bytes);
bool give_pinned_memory_back(void* memory);
bool is_pinned_memory(const void* memory);
// Ends the program if something was written beyond an allocation's end.
void check_ends();
// Allows or forbids the host, and everything else, to touch any of it.
void allow_access(bool allowed);

}  // namespace emulation
