// The kernels of a build without CUDA. Nothing gets here: there is no Engine without a GPU
// (comm/cuda/no_cuda.cc).
#include "comm/base/error.h"
#include "comm/cuda/runtime.h"
#include "layers/cuda/add_sum.h"
#include "layers/cuda/blas.h"
#include "layers/cuda/kernels.h"

namespace conclave::cuda {
namespace {

[[noreturn]] void refuse() { throw Error(description()); }

using F = float;
using I = std::int64_t;
using I32 = std::int32_t;
using U8 = std::uint8_t;
using S = StreamHandle;
using E = Elements;
using C = ConstElements;

}  // namespace

struct Blas::Implementation {};
Blas::Blas(const Stream&) { refuse(); }
Blas::~Blas() = default;
void Blas::multiply(const Product&) { refuse(); }

void add_sum(S, const F*, I, bool, double, double*) { refuse(); }
void add_sum(S, const double*, I, double*) { refuse(); }
void convert(S, C, E, I) { refuse(); }
void add(S, const F*, const F*, F*, I) { refuse(); }
void swiglu(S, C, E, I, I) { refuse(); }
void swiglu_backward(S, C, C, E, I, I) { refuse(); }
void activation(S, bool, C, E, I) { refuse(); }
void activation_backward(S, bool, C, C, E, I) { refuse(); }
void sigmoid_gate(S, const F*, const F*, F*, I, I) { refuse(); }
void sigmoid_gate_backward(S, const F*, const F*, const F*, F*, F*, I, I) { refuse(); }
void dropout(S, RandomKey, const I*, F, E, U8*, I, I) { refuse(); }
void dropout_backward(S, const U8*, F, E, I) { refuse(); }
void rotary(S, F*, const F*, const F*, F, I, I, I, I, I) { refuse(); }
void embedding(S, const F*, const I32*, F*, I, I) { refuse(); }
void embedding_backward(S, const F*, const I32*, const I32*, const I32*, I, F*, I) { refuse(); }
void rms_norm(S, const F*, const F*, const F*, F*, E, F*, F, I, I) { refuse(); }
I rms_norm_row_blocks(I) { refuse(); }
void rms_norm_backward(S, const F*, const F*, const F*, const F*, const F*, F*, F*, F*, I, I) { refuse(); }
void gather_rows(S, const F*, const I32*, E, I, I, I) { refuse(); }
void gather_rows_backward(S, C, const I32*, F*, I, I, I) { refuse(); }
void combine_rows(S, C, const F*, const I32*, F*, bool, I, I, I) { refuse(); }
void combine_rows_backward(S, const F*, C, const F*, const I32*, E, F*, I, I, I) { refuse(); }
void clear_rows_without_choice(S, const I32*, E, I, I) { refuse(); }
void softmax_top_k(S, const TopK&) { refuse(); }
void softmax_top_k_backward(S, const TopKBackward&) { refuse(); }
void sigmoid_top_k(S, const TopK&, const F*) { refuse(); }
void sigmoid_top_k_backward(S, const TopKBackward&, const F*) { refuse(); }
void grouped_gemm(S, const GroupedProblem&, C, C, E) { refuse(); }
void grouped_gemm_input_gradient(S, const GroupedProblem&, C, C, E) { refuse(); }
void grouped_gemm_weight_gradient(S, const GroupedProblem&, C, C, F*) { refuse(); }
I widest_head() { refuse(); }
I attention_forward_scratch_bytes(const AttentionProblem&) { refuse(); }
void attention_forward(S, const AttentionProblem&, const F*, const F*, const F*, const U8*, F*, F*, void*) {
  refuse();
}
void attention_decode(S, const AttentionProblem&, const F*, const F*, const F*, F*) { refuse(); }
I attention_backward_scratch_bytes(const AttentionProblem&) { refuse(); }
void attention_backward(S, const AttentionProblem&, const F*, const F*, const F*, const U8*, const F*,
                        const F*, const F*, F*, F*, F*, void*) {
  refuse();
}
void cross_entropy_rows(S, F*, const I32*, double*, bool, F, I, I) { refuse(); }
void mixture_loss(S, const MixtureLoss&) { refuse(); }

}  // namespace conclave::cuda
