#include <omp.h>

#include <array>
#include <cmath>
#include <limits>

#include "layers/ops/attention/attention.h"
#include "layers/ops/attention/attention_block.h"
#include "layers/ops/attention/block_gemm.h"
#include "layers/ops/vector_math.h"

namespace conclave::cpu {
namespace {

struct Head {
  ConstMatrix q;       // [queries, hd]
  ConstMatrix k;       // [keys, hd]
  ConstMatrix v;       // [keys, hd]
  Matrix y;            // [queries, hd]
  Matrix log_sum_exp;  // [queries, 1]
  Visibility visibility;
};

// The softmax of one query so far: everything is relative to the largest score seen.
struct OnlineSoftmax {
  float maximum = -std::numeric_limits<float>::infinity();
  float sum = 0.0F;  // of exp(score - maximum)

  // Takes in the `visible` first of `columns` scores, times `scale`, and replaces each by exp(score -
  // maximum), the hidden ones by 0. Returns the factor by which all that was computed under the old maximum
  // shrinks.
  float absorb(float* scores, float scale, int visible, int columns) {
    float new_maximum = maximum;
#pragma omp simd reduction(max : new_maximum)
    for (int c = 0; c < visible; ++c) {
      const float score = scores[c] * scale;
      new_maximum = score > new_maximum ? score : new_maximum;
    }
    float block_sum = 0.0F;
#pragma omp simd reduction(+ : block_sum)
    for (int c = 0; c < columns; ++c) {
      const float weight = c < visible ? vector_exp(scores[c] * scale - new_maximum) : 0.0F;
      scores[c] = weight;
      block_sum += weight;
    }
    const float shrink = vector_exp(maximum - new_maximum);
    maximum = new_maximum;
    sum = sum * shrink + block_sum;
    return shrink;
  }
};

// The score of a key that is padding. Finite, so that a block of padding alone makes no NaN: what it adds
// vanishes with the first real score, and a row that ends with this maximum has seen no key.
constexpr float kHidden = -1e30F;

void hide_padding(float* scores, const std::uint8_t* padding, std::int64_t columns) {
#pragma omp simd
  for (std::int64_t c = 0; c < columns; ++c) scores[c] = padding[c] != 0 ? kHidden : scores[c];
}

void scale_row(float* row, std::int64_t head_dim, float factor) {
#pragma omp simd
  for (std::int64_t d = 0; d < head_dim; ++d) row[d] *= factor;
}

template <class Gemm>
void forward_head(const Head& head, std::int64_t head_dim, Matrix scores, Gemm& gemm) {
  const Visibility& visibility = head.visibility;
  const float scale = 1.0F / std::sqrt(static_cast<float>(head_dim));
  for (std::int64_t q0 = 0; q0 < visibility.queries; q0 += kQueryBlock) {
    const std::int64_t rows = std::min(kQueryBlock, visibility.queries - q0);
    const std::int64_t keys = visibility.keys_of(q0 + rows - 1);  // blocks beyond are hidden from every row
    const Matrix y = head.y.from(q0);
    std::array<OnlineSoftmax, kQueryBlock> softmax;
    for (std::int64_t k0 = 0; k0 < keys; k0 += kKeyBlock) {
      const std::int64_t columns = std::min(kKeyBlock, keys - k0);
      gemm(Transpose::kNo, Transpose::kYes, rows, columns, head_dim, head.q.from(q0), head.k.from(k0), false,
           scores);
      for (std::int64_t r = 0; r < rows; ++r) {
        const std::int64_t visible = std::clamp<std::int64_t>(visibility.keys_of(q0 + r) - k0, 0, columns);
        if (visibility.padding != nullptr) hide_padding(scores.row(r), visibility.padding + k0, columns);
        const float shrink = softmax[static_cast<std::size_t>(r)].absorb(
            scores.row(r), scale, static_cast<int>(visible), static_cast<int>(columns));
        if (k0 > 0 && shrink != 1.0F) scale_row(y.row(r), head_dim, shrink);
      }
      gemm(Transpose::kNo, Transpose::kNo, rows, head_dim, columns, scores, head.v.from(k0), k0 > 0, y);
    }
    for (std::int64_t r = 0; r < rows; ++r) {
      const OnlineSoftmax& row = softmax[static_cast<std::size_t>(r)];
      const bool sees_nothing = row.maximum == kHidden * scale;
      scale_row(y.row(r), head_dim, sees_nothing ? 0.0F : 1.0F / row.sum);
      if (head.log_sum_exp.data != nullptr)
        *head.log_sum_exp.row(q0 + r) = sees_nothing ? 0.0F : row.maximum + std::log(row.sum);
    }
  }
}

// Runs forward_head for every item; `head_of(item)` says which head of which sequence that is.
template <class Gemm, class HeadOf>
void forward_heads_with(Context& ctx, std::int64_t items, std::int64_t head_dim, HeadOf head_of) {
  const Arena::Mark scratch(*ctx.arena);
  float* scores = ctx.arena->allocate({omp_get_max_threads(), kScores}).data<float>();
  const BlockGemmScratch<Gemm> gemm_scratch(ctx, omp_get_max_threads(), head_dim);
  bool failed = false;
#pragma omp parallel for schedule(static) reduction(|| : failed)
  for (std::int64_t item = 0; item < items; ++item) {
    Gemm gemm = gemm_scratch.gemm_of_thread(omp_get_thread_num());
    forward_head(head_of(item), head_dim, {scores + omp_get_thread_num() * kScores, kKeyBlock}, gemm);
    failed = failed || gemm.failed();
  }
  CONCLAVE_CHECK(!failed, "oneDNN refused a block gemm of attention (out of memory?)");
}

template <class HeadOf>
void forward_heads(Context& ctx, std::int64_t items, std::int64_t head_dim, HeadOf head_of) {
  if (ctx.compute == DType::kBFloat16) {
    forward_heads_with<Bf16BlockGemm>(ctx, items, head_dim, head_of);
  } else {
    forward_heads_with<Fp32BlockGemm>(ctx, items, head_dim, head_of);
  }
}

}  // namespace

void attention_forward(Context& ctx, const AttentionForwardArgs& args) {
  const AttentionShape shape = args.shape;
  const std::int64_t sequence_length = args.sequence_length;
  const std::int64_t sequences = args.q.extent(0) / sequence_length;
  const std::uint8_t* padding = padding_of(args.padding);
  const bool causal = args.causal;
  const ConstMatrix q = matrix(args.q);
  const ConstMatrix k = matrix(args.k);
  const ConstMatrix v = matrix(args.v);
  const Matrix y = matrix(args.y);
  const Matrix log_sum_exp = matrix(args.log_sum_exp);
  forward_heads(ctx, sequences * shape.heads, shape.head_dim, [=](std::int64_t item) {
    const std::int64_t first_token = item / shape.heads * sequence_length;
    const std::int64_t head = item % shape.heads;
    const std::int64_t column = head * shape.head_dim;
    const std::int64_t kv_column = head / (shape.heads / shape.kv_heads) * shape.head_dim;
    return Head{.q = q.from(first_token, column),
                .k = k.from(first_token, kv_column),
                .v = v.from(first_token, kv_column),
                .y = y.from(first_token, column),
                .log_sum_exp = log_sum_exp.from(first_token, head),
                .visibility = {sequence_length, sequence_length, causal,
                               padding == nullptr ? nullptr : padding + first_token}};
  });
}

void attention_decode(Context& ctx, const AttentionDecodeArgs& args) {
  const AttentionShape shape = args.shape;
  const Visibility visibility{args.q.extent(0), args.k.extent(0)};
  const ConstMatrix q = matrix(args.q);
  const ConstMatrix k = matrix(args.k);
  const ConstMatrix v = matrix(args.v);
  const Matrix y = matrix(args.y);
  forward_heads(ctx, shape.heads, shape.head_dim, [=](std::int64_t head) {
    const std::int64_t column = head * shape.head_dim;
    const std::int64_t kv_column = head / (shape.heads / shape.kv_heads) * shape.head_dim;
    return Head{.q = q.from(0, column),
                .k = k.from(0, kv_column),
                .v = v.from(0, kv_column),
                .y = y.from(0, column),
                .log_sum_exp = {},
                .visibility = visibility};
  });
}

}  // namespace conclave::cpu
