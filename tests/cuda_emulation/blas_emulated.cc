// Matrix products of the emulated GPUs: plain loops, in the order of the stream.
#include "comm/base/error.h"
#include "layers/cuda/blas.h"
#include "tests/cuda_emulation/cuda_runtime.h"

namespace conclave::cuda {
namespace {

float element(const void* matrix, DType dtype, std::int64_t index) {
  return dtype == DType::kBFloat16 ? static_cast<float>(static_cast<const bfloat16*>(matrix)[index])
                                   : static_cast<const float*>(matrix)[index];
}

void compute(const Product& p) {
  for (std::int64_t i = 0; i < p.m; ++i) {
    for (std::int64_t j = 0; j < p.n; ++j) {
      float sum = 0;
      for (std::int64_t l = 0; l < p.k; ++l) {
        sum += element(p.a, p.factors, p.transpose_a ? l * p.m + i : i * p.k + l) *
               element(p.b, p.factors, p.transpose_b ? j * p.k + l : l * p.n + j);
      }
      const std::int64_t at = i * p.n + j;
      if (p.accumulate) sum += element(p.c, p.result, at);
      if (p.result == DType::kBFloat16) {
        static_cast<bfloat16*>(p.c)[at] = bfloat16(sum);
      } else {
        static_cast<float*>(p.c)[at] = sum;
      }
    }
  }
}

}  // namespace

struct Blas::Implementation {
  const Stream& stream;
};

Blas::Blas(const Stream& stream) : implementation_(std::make_unique<Implementation>(stream)) {}
Blas::~Blas() = default;

void Blas::multiply(const Product& product) {
  CONCLAVE_CHECK(product.m > 0 && product.n > 0 && product.k > 0, "cuBLAS takes no empty products");
  CONCLAVE_CHECK(product.result == DType::kFloat32 || product.factors == DType::kBFloat16,
                 "cuBLAS has no product of fp32 factors with a result in bf16");
  auto* stream = static_cast<cudaStream_t>(implementation_->stream.handle());
  static_cast<void>(emulation::enqueue(stream, [product] { compute(product); }));
}

}  // namespace conclave::cuda
