// cuBLASLt, loaded when the first product on a GPU is prepared. Linked, it would take 0.1 s and 210 MB from
// every program that computes on the CPU. For files of the backend only.
#pragma once

#include <cublasLt.h>

namespace conclave::cuda {

// The function of the library with this name. Throws Error with the loader's words if there is none.
void* cublas_lt_function(const char* name);

}  // namespace conclave::cuda

// A function of cuBLASLt, to be called: CONCLAVE_CUBLAS_LT(cublasLtCreate)(&handle).
#define CONCLAVE_CUBLAS_LT(name)                                                      \
  ([] {                                                                               \
    static auto* const function =                                                     \
        reinterpret_cast<decltype(&name)>(conclave::cuda::cublas_lt_function(#name)); \
    return function;                                                                  \
  }())
