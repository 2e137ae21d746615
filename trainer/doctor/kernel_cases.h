// Small problems for the main operators, for a GPU and the CPU to compute alike (kernel_check.h).
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "layers/context.h"

namespace conclave {

struct KernelCase {
  struct Result {
    std::string name;   // "dq"
    TensorView values;  // fp32 or bf16, in ctx.arena
  };

  std::string name;             // "attention of 70 tokens, bf16"
  std::vector<Shape> operands;  // of normal values; on the CPU they are fp32, and so is all that it computes
  // On the GPU. Operands of a case in bf16 have values that bf16 can hold.
  DType compute = DType::kFloat32;   // Context::compute
  DType operand = DType::kFloat32;   // of every operand
  DType rounding = DType::kFloat32;  // the coarsest that is rounded to on the way to a result
  std::function<std::vector<Result>(Context& ctx, std::span<const TensorView> operands)> run;
};

// Sizes that tiles divide and sizes that they don't, an expert without rows, an ignored target; and a block
// of a model.
std::vector<KernelCase> kernel_cases();

}  // namespace conclave
