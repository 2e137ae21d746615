// What the cores can do at most: multiply-adds between registers, all threads of all ranks at once. No memory
// is touched, so that nothing a program computes can be faster for long.
#pragma once

#include <cstdint>
#include <string>

#include "comm/communicator.h"
#include "layers/cuda/engine.h"

namespace conclave::bench {

// Over all ranks, in GFLOP/s; 0 where the processor has no such instruction. The loops are compiled for their
// instructions and chosen when the program runs, whatever the build is for. Matrix units (AMX) are not
// measured: on processors that have them a share of the bf16 peak may exceed 100 %.
struct MachinePeak {
  double fp32 = 0;
  double bf16 = 0;
  std::string fp32_instructions;  // "avx512f", "avx2 fma", "scalar"; on a GPU what was multiplied
  std::string bf16_instructions;  // "avx512_bf16", ""; the same

  // Of precision.compute, by its name in the configuration: "fp32" or "bf16".
  double of(const std::string& compute) const { return compute == "bf16" ? bf16 : fp32; }
};

// Collective; under a second. The best of several rounds, as a peak is.
MachinePeak measure_machine_peak(Communicator& world);

// Of the GPUs of all ranks at once: products of cuBLAS of square matrices with `size` rows, or half as many
// as often as it takes until the operands fill a quarter of the smallest memory. Not the most that the
// arithmetic units can do, but the most that a product gets out of them. Collective.
MachinePeak measure_gpu_peak(Communicator& world, cuda::Engine& gpu, std::int64_t size = 8192);

// One loop: what a thread does, and what it counts.
struct PeakLoop {
  const char* instructions = "";
  double flops_per_iteration = 0;
  float (*run)(std::int64_t iterations) = nullptr;  // the result keeps the compiler from leaving the work out
};
// The widest that this processor has (peak_loops_x86.cc, peak_loops_other.cc). Without bf16: run == nullptr.
PeakLoop fp32_peak_loop();
PeakLoop bf16_peak_loop();

}  // namespace conclave::bench
