// Whether a GPU computes what the CPU does, within what rounding explains: for `conclave doctor`.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "layers/cuda/engine.h"
#include "trainer/doctor/kernel_cases.h"

namespace conclave {

struct KernelAgreement {
  std::string name;       // of the case
  std::string result;     // the one that is furthest from the CPU's, by its bound
  double difference = 0;  // largest of an element
  double bound = 0;       // what rounding explains

  double share() const;  // of the bound; infinite where a NaN stands on one side alone
  bool agrees() const { return share() <= 1; }
};

// Runs each case on the GPU and on the CPU. The bound is the arithmetic's own: the difference that one
// rounding of every operand makes on the CPU, and one of the result, times a factor for the roundings of
// longer sums. Throws Error where a kernel can't run.
std::vector<KernelAgreement> check_kernels(cuda::Engine& gpu, const std::vector<KernelCase>& cases);

// One line where all agree; else one for each that doesn't.
std::string describe(std::span<const KernelAgreement> agreements);

}  // namespace conclave
