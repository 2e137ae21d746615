// Races between threads of a kernel. The compiler's instrumentation for threads (-fsanitize=thread) calls
// this runtime, in place of its own, whenever a kernel touches memory.
//
// Two threads that touch a byte, one of them writing, race unless
//   both are of one block, and a __syncthreads lies between,
//   both are of one warp, and a __syncwarp lies between (shuffles and votes order no memory), or
//   both add to it atomically.
// Only what is watched counts: the GPU's memory, and variables of the program, which are a block's shared
// memory. Launches follow one another.
#pragma once

#include <cstddef>
#include <string>

#include "tests/cuda_emulation/shadow_memory.h"

namespace emulation {

void watch_memory(const void* memory, std::size_t bytes);
void forget_memory(const void* memory, std::size_t bytes);

// What the threads of a grid do, told by who runs them. Off unless the kernels are instrumented.
void begin_race_check();
void begin_block_of_race_check();
void end_race_check();
// From now on `thread` of the block touches memory.
void enter_thread(unsigned thread);
// All of the block, or of the warp of the present thread, have met.
void order_block();
void order_warp();

// What the present thread touches, in the code at `where`.
void note_read(const void* memory, std::size_t bytes, const void* where);
void note_write(const void* memory, std::size_t bytes, const void* where);
void note_atomic(const void* memory, std::size_t bytes, const void* where);

// What goes on beside the present thread is noted as it begins and as it ends: between the moment that
// begin_interval() returns, after the first note, and the second nobody may write what is read, and nobody
// touch what is written.
Mark begin_interval();
void note_end_of_read(Mark begin, const void* memory, std::size_t bytes, const void* where);
void note_end_of_write(Mark begin, const void* memory, std::size_t bytes, const void* where);

// The first race since begin_race_check(), in words; empty if there was none.
std::string race_found();

}  // namespace emulation
