// Dense matrix products on a GPU: cuBLASLt (blas_cuda.cc), and the same on the emulation of the tests.
#pragma once

#include <cstdint>
#include <memory>

#include "comm/base/dtype.h"
#include "comm/cuda/stream.h"

namespace conclave::cuda {

// c [M, N] = op(a) op(b), or += : all row-major and contiguous, in the memory of the stream's GPU.
struct Product {
  std::int64_t m = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
  DType factors = DType::kFloat32;  // of a and b: fp32 or bf16
  DType result = DType::kFloat32;   // of c: fp32, or bf16 where the factors are
  const void* a = nullptr;          // [M, K]; [K, M] with transpose_a
  const void* b = nullptr;          // [K, N]; [N, K] with transpose_b
  void* c = nullptr;                // overlaps neither
  bool transpose_a = false;
  bool transpose_b = false;
  bool accumulate = false;
};

class Blas {
 public:
  // `stream` must outlive the object.
  explicit Blas(const Stream& stream);
  ~Blas();
  Blas(const Blas&) = delete;
  Blas& operator=(const Blas&) = delete;

  // Enqueues it: sums in fp32, in an order that depends on nothing but shapes and alignments. M, N and K are
  // above zero.
  void multiply(const Product& product);

 private:
  struct Implementation;
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace conclave::cuda
