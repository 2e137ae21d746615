#include <algorithm>
#include <bit>
#include <cstddef>
#include <map>
#include <tuple>

#include "comm/base/error.h"
#include "comm/cuda/memory.h"
#include "layers/cuda/blas.h"
#include "layers/cuda/cublas_lt.cuh"

namespace conclave::cuda {
namespace {

constexpr std::size_t kWorkspaceBytes = std::size_t{32} << 20;  // what cuBLAS asks for on Hopper

void check(cublasStatus_t status, const char* what) {
  CONCLAVE_CHECK(status == CUBLAS_STATUS_SUCCESS, "cuBLAS: {} failed: {}", what,
                 CONCLAVE_CUBLAS_LT(cublasLtGetStatusString)(status));
}

cudaDataType_t data_type(DType dtype) { return dtype == DType::kBFloat16 ? CUDA_R_16BF : CUDA_R_32F; }

// The largest power of two, up to 256, that divides an address: algorithms ask for alignments.
std::uint32_t alignment_bytes(const void* address) {
  const auto bits = reinterpret_cast<std::uintptr_t>(address);
  return 1U << std::min(std::countr_zero(bits), 8);
}

void destroy(cublasLtHandle_t handle) { CONCLAVE_CUBLAS_LT(cublasLtDestroy)(handle); }
void destroy(cublasLtMatmulDesc_t description) { CONCLAVE_CUBLAS_LT(cublasLtMatmulDescDestroy)(description); }
void destroy(cublasLtMatrixLayout_t layout) { CONCLAVE_CUBLAS_LT(cublasLtMatrixLayoutDestroy)(layout); }
void destroy(cublasLtMatmulPreference_t preference) {
  CONCLAVE_CUBLAS_LT(cublasLtMatmulPreferenceDestroy)(preference);
}

// cuBLASLt's objects, with their ends.
template <class T>
class Owned {
 public:
  Owned() = default;
  ~Owned() {
    if (handle_ != nullptr) destroy(handle_);
  }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  T* out() { return &handle_; }
  T get() const { return handle_; }

 private:
  T handle_ = nullptr;
};
using Handle = Owned<cublasLtHandle_t>;
using Description = Owned<cublasLtMatmulDesc_t>;
using Layout = Owned<cublasLtMatrixLayout_t>;
using Preference = Owned<cublasLtMatmulPreference_t>;

// What a choice of algorithm depends on.
using Key = std::tuple<std::int64_t, std::int64_t, std::int64_t, DType, DType, bool, bool, bool,
                       std::uint32_t, std::uint32_t, std::uint32_t>;

Key key_of(const Product& p) {
  return {p.m,
          p.n,
          p.k,
          p.factors,
          p.result,
          p.transpose_a,
          p.transpose_b,
          p.accumulate,
          alignment_bytes(p.a),
          alignment_bytes(p.b),
          alignment_bytes(p.c)};
}

}  // namespace

struct Blas::Implementation {
  explicit Implementation(const Stream& stream_of_all)
      : stream(stream_of_all), workspace(allocate(stream_of_all.device(), kWorkspaceBytes)) {
    check(CONCLAVE_CUBLAS_LT(cublasLtCreate)(handle.out()), "making a handle");
    prefetch(stream, workspace.get(), kWorkspaceBytes);
  }

  const Stream& stream;
  Memory workspace;
  Handle handle;
  std::map<Key, cublasLtMatmulAlgo_t> algorithms;
};

Blas::Blas(const Stream& stream) : implementation_(std::make_unique<Implementation>(stream)) {}
Blas::~Blas() = default;

// cuBLAS knows columns first: a row-major matrix is the transposed of a column-major one, so that
// c^T [N, M] = op(b)^T op(a)^T is computed, with b as its first factor.
void Blas::multiply(const Product& p) {
  Implementation& own = *implementation_;
  Description description;
  check(CONCLAVE_CUBLAS_LT(cublasLtMatmulDescCreate)(description.out(), CUBLAS_COMPUTE_32F, CUDA_R_32F),
        "describing a product");
  const cublasOperation_t first = p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
  const cublasOperation_t second = p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
  check(CONCLAVE_CUBLAS_LT(cublasLtMatmulDescSetAttribute)(description.get(), CUBLASLT_MATMUL_DESC_TRANSA,
                                                           &first, sizeof first),
        "transposing a factor");
  check(CONCLAVE_CUBLAS_LT(cublasLtMatmulDescSetAttribute)(description.get(), CUBLASLT_MATMUL_DESC_TRANSB,
                                                           &second, sizeof second),
        "transposing a factor");

  const auto describe = [](Layout& layout, DType dtype, std::int64_t rows, std::int64_t columns) {
    check(CONCLAVE_CUBLAS_LT(cublasLtMatrixLayoutCreate)(layout.out(), data_type(dtype),
                                                         static_cast<std::uint64_t>(columns),
                                                         static_cast<std::uint64_t>(rows), columns),
          "describing a matrix");
  };
  Layout a;
  Layout b;
  Layout c;
  describe(a, p.factors, p.transpose_a ? p.k : p.m, p.transpose_a ? p.m : p.k);
  describe(b, p.factors, p.transpose_b ? p.n : p.k, p.transpose_b ? p.k : p.n);
  describe(c, p.result, p.m, p.n);

  const Key key = key_of(p);
  auto known = own.algorithms.find(key);
  if (known == own.algorithms.end()) {
    Preference preference;
    check(CONCLAVE_CUBLAS_LT(cublasLtMatmulPreferenceCreate)(preference.out()), "preferring algorithms");
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
      check(CONCLAVE_CUBLAS_LT(cublasLtMatmulPreferenceSetAttribute)(preference.get(), attribute, &value,
                                                                     sizeof value),
            "preferring algorithms");
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes);
    // Parts of a sum are added up in one order, in the workspace, or not cut at all.
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
           static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_bytes(p.b));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_bytes(p.a));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_bytes(p.c));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_bytes(p.c));
    cublasLtMatmulHeuristicResult_t found{};
    int count = 0;
    check(CONCLAVE_CUBLAS_LT(cublasLtMatmulAlgoGetHeuristic)(own.handle.get(), description.get(), b.get(),
                                                             a.get(), c.get(), c.get(), preference.get(), 1,
                                                             &found, &count),
          "choosing an algorithm");
    CONCLAVE_CHECK(count > 0, "cuBLAS has no algorithm for a product of {} x {} x {} in {}", p.m, p.n, p.k,
                   name_of(p.factors));
    known = own.algorithms.emplace(key, found.algo).first;
  }

  const float alpha = 1.0F;
  const float beta = p.accumulate ? 1.0F : 0.0F;
  check(CONCLAVE_CUBLAS_LT(cublasLtMatmul)(own.handle.get(), description.get(), &alpha, p.b, b.get(), p.a,
                                           a.get(), &beta, p.c, c.get(), p.c, c.get(), &known->second,
                                           own.workspace.get(), kWorkspaceBytes,
                                           static_cast<cudaStream_t>(own.stream.handle())),
        "a product");
}

}  // namespace conclave::cuda
