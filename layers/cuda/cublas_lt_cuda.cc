#include "layers/cuda/cublas_lt.cuh"

#include <dlfcn.h>

#include "comm/base/error.h"

namespace conclave::cuda {
namespace {

// By its name, as the system or LD_LIBRARY_PATH knows it, or from where the build found it.
void* library() {
  static void* const handle = [] {
    void* found = dlopen(CONCLAVE_CUBLAS_LT_NAME, RTLD_NOW | RTLD_LOCAL);
    if (found == nullptr)
      found = dlopen(CONCLAVE_CUBLAS_LT_FOLDER "/" CONCLAVE_CUBLAS_LT_NAME, RTLD_NOW | RTLD_LOCAL);
    CONCLAVE_CHECK(found != nullptr,
                   "cuBLASLt can't be loaded: {}; it belongs to the CUDA Toolkit, whose folder of "
                   "libraries LD_LIBRARY_PATH may name",
                   dlerror());
    return found;
  }();
  return handle;
}

}  // namespace

void* cublas_lt_function(const char* name) {
  void* function = dlsym(library(), name);
  CONCLAVE_CHECK(function != nullptr, "{} has no {}: {}", CONCLAVE_CUBLAS_LT_NAME, name, dlerror());
  return function;
}

}  // namespace conclave::cuda
