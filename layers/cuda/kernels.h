// The kernels behind the operators, as plain functions that enqueue them. Their argument structs, formulas
// and checks are those of layers/ops/<op>/<op>.h; here are bare pointers into a GPU's memory, since nvcc
// doesn't read the headers of the tree. Shapes as there: T tokens, R rows, D and F widths, E experts, K
// choices, H heads. Counts may be zero. Sums run in an order that depends on the shapes alone.
#pragma once

#include <cstdint>

#include "comm/base/dtype.h"
#include "comm/cuda/stream.h"

namespace conclave::cuda {

// fp32 or bf16.
struct ConstElements {
  const void* data = nullptr;
  DType dtype = DType::kFloat32;
};
struct Elements {
  void* data = nullptr;
  DType dtype = DType::kFloat32;

  operator ConstElements() const { return {data, dtype}; }
};

void convert(StreamHandle stream, ConstElements from, Elements to, std::int64_t count);

void add(StreamHandle stream, const float* a, const float* b, float* sum, std::int64_t count);

void swiglu(StreamHandle stream, ConstElements gate_up, Elements h, std::int64_t T, std::int64_t F);
void swiglu_backward(StreamHandle stream, ConstElements gate_up, ConstElements dh, Elements dgate_up,
                     std::int64_t T, std::int64_t F);

// relu, or gelu.
void activation(StreamHandle stream, bool is_relu, ConstElements up, Elements h, std::int64_t count);
void activation_backward(StreamHandle stream, bool is_relu, ConstElements up, ConstElements dh, Elements dup,
                         std::int64_t count);

void sigmoid_gate(StreamHandle stream, const float* logits, const float* x, float* y, std::int64_t T,
                  std::int64_t D);
void sigmoid_gate_backward(StreamHandle stream, const float* logits, const float* x, const float* dy,
                           float* dlogits, float* dx, std::int64_t T, std::int64_t D);

// A RandomStream, as kernels draw from it.
struct RandomKey {
  std::uint32_t key[2];
  std::uint64_t substream;
};
void dropout(StreamHandle stream, RandomKey random, const std::int64_t* first_block, float rate, Elements x,
             std::uint8_t* kept, std::int64_t R, std::int64_t F);
void dropout_backward(StreamHandle stream, const std::uint8_t* kept, float rate, Elements dx,
                      std::int64_t count);

// direction: +1 forward, -1 backward. half = head_dim / 2.
void rotary(StreamHandle stream, float* x, const float* cosines, const float* sines, float direction,
            std::int64_t T, std::int64_t H, std::int64_t half, std::int64_t sequence_length,
            std::int64_t first_position);

void embedding(StreamHandle stream, const float* weight, const std::int32_t* tokens, float* x, std::int64_t T,
               std::int64_t D);
// Run i of `runs`: the positions positions[first[i]] .. positions[first[i + 1] - 1], ascending, hold the same
// token.
void embedding_backward(StreamHandle stream, const float* dx, const std::int32_t* tokens,
                        const std::int32_t* positions, const std::int32_t* first, std::int64_t runs,
                        float* dweight, std::int64_t D);

// delta null: x is normalised; else x + delta, which residual_sum takes.
void rms_norm(StreamHandle stream, const float* x, const float* delta, const float* weight,
              float* residual_sum, Elements y, float* rstd, float eps, std::int64_t T, std::int64_t D);
// Row blocks of the weight's gradient for T rows: `partial` is [blocks, D].
std::int64_t rms_norm_row_blocks(std::int64_t T);
// dresidual null: nothing comes past the norm.
void rms_norm_backward(StreamHandle stream, const float* dy, const float* x, const float* weight,
                       const float* rstd, const float* dresidual, float* dx, float* dweight, float* partial,
                       std::int64_t T, std::int64_t D);

void gather_rows(StreamHandle stream, const float* x, const std::int32_t* choice_of_row, Elements rows,
                 std::int64_t R, std::int64_t K, std::int64_t D);
void gather_rows_backward(StreamHandle stream, ConstElements drows, const std::int32_t* row_of_choice,
                          float* dx, std::int64_t T, std::int64_t K, std::int64_t D);
void combine_rows(StreamHandle stream, ConstElements rows, const float* weights,
                  const std::int32_t* row_of_choice, float* y, bool accumulate, std::int64_t T,
                  std::int64_t K, std::int64_t D);
void combine_rows_backward(StreamHandle stream, const float* dy, ConstElements rows, const float* weights,
                           const std::int32_t* row_of_choice, Elements drows, float* dweights, std::int64_t T,
                           std::int64_t K, std::int64_t D);
void clear_rows_without_choice(StreamHandle stream, const std::int32_t* choice_of_row, Elements rows,
                               std::int64_t R, std::int64_t D);

// `group_scores` [T, groups] and `best_groups` [T, top_groups] where top_groups < groups; else unused.
struct TopK {
  std::int64_t tokens = 0;
  std::int64_t experts_count = 0;
  std::int64_t top_k = 0;
  bool normalize = true;
  float scale = 1;
  std::int64_t groups = 1;
  std::int64_t top_groups = 1;
  const float* logits = nullptr;
  float* probabilities = nullptr;
  std::int32_t* experts = nullptr;
  float* weights = nullptr;
  float* log_sum_exp = nullptr;
  float* entropy = nullptr;
  float* group_scores = nullptr;
  std::int32_t* best_groups = nullptr;
};
void softmax_top_k(StreamHandle stream, const TopK& args);

// dprobabilities null: none; else each of its rows holds for tokens_a_row tokens.
struct TopKBackward {
  std::int64_t tokens = 0;
  std::int64_t experts_count = 0;
  std::int64_t top_k = 0;
  bool normalize = true;
  float scale = 1;
  float z_coefficient = 0;
  std::int64_t tokens_a_row = 1;
  const float* probabilities = nullptr;
  const std::int32_t* experts = nullptr;
  const float* weights = nullptr;
  const float* log_sum_exp = nullptr;
  const float* dweights = nullptr;
  const float* dprobabilities = nullptr;
  float* dlogits = nullptr;
};
void softmax_top_k_backward(StreamHandle stream, const TopKBackward& args);

// `bias` [E].
void sigmoid_top_k(StreamHandle stream, const TopK& args, const float* bias);
// `logits` [T, E].
void sigmoid_top_k_backward(StreamHandle stream, const TopKBackward& args, const float* logits);

// Rows of groups: those of group e are [offsets[e], offsets[e + 1]), numbers that the GPU alone may know;
// rows from offsets[groups] on are neither read nor written. Factors are both fp32, or both bf16 with results
// in fp32 or bf16. A row's result depends on nothing but the row and its weights, dW[e] on nothing but e's
// rows.
struct GroupedProblem {
  std::int64_t groups = 0;                // n
  std::int64_t rows = 0;                  // R, at least offsets[groups]
  std::int64_t outputs = 0;               // N
  std::int64_t inputs = 0;                // K
  const std::int64_t* offsets = nullptr;  // [n + 1], from 0 on, never falling
  bool accumulate = false;                // of the weight gradient: += in place of =
};
// y[r] = W[e] x[r]: x [R, K], weights [n, N, K], y [R, N].
void grouped_gemm(StreamHandle stream, const GroupedProblem& problem, ConstElements x, ConstElements weights,
                  Elements y);
// dx[r] = W[e]^T dy[r].
void grouped_gemm_input_gradient(StreamHandle stream, const GroupedProblem& problem, ConstElements dy,
                                 ConstElements weights, Elements dx);
// dW[e] = or += sum over the rows r of group e of dy[r] x[r]^T.
void grouped_gemm_weight_gradient(StreamHandle stream, const GroupedProblem& problem, ConstElements dy,
                                  ConstElements x, float* dweights);

// The last `queries` of `keys` positions of each sequence; padding by key, may be null, as may log_sum_exp.
inline constexpr std::int64_t kMaxHeadDim = 256;
// On the GPU in use, whose blocks may have too little shared memory for heads of kMaxHeadDim.
std::int64_t widest_head();
struct AttentionProblem {
  std::int64_t sequences = 0;
  std::int64_t queries = 0;  // of a sequence; fits into an int
  std::int64_t keys = 0;     // likewise
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;  // at most widest_head()
  bool causal = true;
  bool in_bf16 = false;  // factors of products are rounded to bf16, for tensor cores
};
// Each needs scratch of as many bytes as the function before it says, aligned to 16.
std::int64_t attention_forward_scratch_bytes(const AttentionProblem& problem);
void attention_forward(StreamHandle stream, const AttentionProblem& problem, const float* q, const float* k,
                       const float* v, const std::uint8_t* padding, float* y, float* log_sum_exp,
                       void* scratch);
// The same of up to a few queries in one sequence, without padding, in fp32 and without scratch.
inline constexpr std::int64_t kFewQueries = 16;
void attention_decode(StreamHandle stream, const AttentionProblem& problem, const float* q, const float* k,
                      const float* v, float* y);
// queries == keys.
std::int64_t attention_backward_scratch_bytes(const AttentionProblem& problem);
void attention_backward(StreamHandle stream, const AttentionProblem& problem, const float* q, const float* k,
                        const float* v, const std::uint8_t* padding, const float* y, const float* log_sum_exp,
                        const float* dy, float* dq, float* dk, float* dv, void* scratch);

void cross_entropy_rows(StreamHandle stream, float* logits, const std::int32_t* targets, double* losses,
                        bool gradients, float scale, std::int64_t rows, std::int64_t V);

// dlogits and doutputs null: no gradients. `gate` and `posterior` are scratch [T, E].
struct MixtureLoss {
  std::int64_t samples = 0;  // T
  std::int64_t experts = 0;  // E
  std::int64_t width = 0;    // O
  double precision = 1;      // 1 / sigma^2
  double scale = 1;
  const float* logits = nullptr;
  const float* outputs = nullptr;
  const std::int32_t* row_of_choice = nullptr;
  const float* targets = nullptr;
  std::int32_t* best = nullptr;
  double* terms = nullptr;  // [T, 4]: of the four sums of MixtureLossResult, in their order
  double* gate = nullptr;
  double* posterior = nullptr;
  float* dlogits = nullptr;
  float* doutputs = nullptr;
};
void mixture_loss(StreamHandle stream, const MixtureLoss& args);

}  // namespace conclave::cuda
