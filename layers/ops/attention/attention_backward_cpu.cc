#include <omp.h>

#include <array>
#include <cmath>

#include "layers/ops/attention/attention.h"
#include "layers/ops/attention/attention_block.h"
#include "layers/ops/attention/block_products.h"
#include "layers/ops/vector_math.h"

namespace conclave::cpu {
namespace {

struct QueryHead {
  ConstMatrix q;            // [S, hd]
  ConstMatrix y;            // [S, hd]
  ConstMatrix log_sum_exp;  // [S, 1]
  ConstMatrix dy;           // [S, hd]
  Matrix dq;                // [S, hd]
};

struct KeyValueHead {
  ConstMatrix k;  // [S, hd]
  ConstMatrix v;  // [S, hd]
  Matrix dk;      // [S, hd]
  Matrix dv;      // [S, hd]
};

struct Scratch {
  Matrix p;   // [kQueryBlock, kKeyBlock]
  Matrix ds;  // [kQueryBlock, kKeyBlock]
};

float dot(const float* a, const float* b, std::int64_t count) {
  float sum = 0.0F;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

// q . k become probabilities in `p`, and the gradients of the probabilities the gradients of q . k in `ds`:
//   p = exp(q . k / sqrt(hd) - log_sum_exp),   ds = p (dp - sum_j p_j dp_j) / sqrt(hd),   and sum_j p_j dp_j
//   = dy . y.
void softmax_backward_row(float* p, float* ds, int visible, int columns, float log_sum_exp, float dy_dot_y,
                          float scale) {
#pragma omp simd
  for (int c = 0; c < columns; ++c) {
    const float probability = c < visible ? vector_exp(p[c] * scale - log_sum_exp) : 0.0F;
    p[c] = probability;
    ds[c] = probability * (ds[c] - dy_dot_y) * scale;
  }
}

// Nobody sees padding: its probabilities and their gradients are 0.
void clear_padding(float* p, float* ds, const std::uint8_t* padding, std::int64_t columns) {
#pragma omp simd
  for (std::int64_t c = 0; c < columns; ++c) {
    p[c] = padding[c] != 0 ? 0.0F : p[c];
    ds[c] = padding[c] != 0 ? 0.0F : ds[c];
  }
}

// The keys and values of a head as the products want them.
template <class Products>
struct KeyValueSides {
  typename Products::Right keys_transposed;    // [hd, S]
  typename Products::Right keys;               // [S, hd]
  typename Products::Right values_transposed;  // [hd, S]
};

// Assigns dq of this head and adds its part of dk and dv.
template <class Products>
void backward_head(const QueryHead& head, const KeyValueHead& shared, const KeyValueSides<Products>& sides,
                   const Visibility& visibility, std::int64_t head_dim, const Scratch& scratch,
                   Products& products) {
  using enum Transpose;
  const float scale = 1.0F / std::sqrt(static_cast<float>(head_dim));
  for (std::int64_t q0 = 0; q0 < visibility.queries; q0 += kQueryBlock) {
    const typename Products::Frame of_block(products);
    const std::int64_t rows = std::min(kQueryBlock, visibility.queries - q0);
    const std::int64_t seen = visibility.keys_of(q0 + rows - 1);  // blocks beyond are hidden from every row
    const ConstMatrix q = head.q.from(q0);
    const ConstMatrix dy = head.dy.from(q0);
    const auto q_left = products.left(kNo, rows, head_dim, q);
    const auto q_right = products.right(kNo, rows, head_dim, q);
    const auto dy_left = products.left(kNo, rows, head_dim, dy);
    const auto dy_right = products.right(kNo, rows, head_dim, dy);
    std::array<float, kQueryBlock> dy_dot_y;
    for (std::int64_t r = 0; r < rows; ++r) {
      dy_dot_y[static_cast<std::size_t>(r)] = dot(dy.row(r), head.y.row(q0 + r), head_dim);
    }
    for (std::int64_t k0 = 0; k0 < seen; k0 += kKeyBlock) {
      const std::int64_t columns = std::min(kKeyBlock, seen - k0);
      products.multiply(q_left, sides.keys_transposed.columns(k0), rows, columns, head_dim, false, scratch.p);
      products.multiply(dy_left, sides.values_transposed.columns(k0), rows, columns, head_dim, false,
                        scratch.ds);
      for (std::int64_t r = 0; r < rows; ++r) {
        const std::int64_t visible = std::clamp<std::int64_t>(visibility.keys_of(q0 + r) - k0, 0, columns);
        softmax_backward_row(scratch.p.row(r), scratch.ds.row(r), static_cast<int>(visible),
                             static_cast<int>(columns), *head.log_sum_exp.row(q0 + r),
                             dy_dot_y[static_cast<std::size_t>(r)], scale);
        if (visibility.padding != nullptr) {
          clear_padding(scratch.p.row(r), scratch.ds.row(r), visibility.padding + k0, columns);
        }
      }
      const auto add_product = [&](Transpose transpose, std::int64_t m, std::int64_t k, const Matrix& scores,
                                   const typename Products::Right& right, bool accumulate, Matrix sum) {
        const typename Products::Frame of_scores(products);
        products.multiply(products.left(transpose, m, k, scores), right, m, head_dim, k, accumulate, sum);
      };
      add_product(kYes, columns, rows, scratch.p, dy_right, true, shared.dv.from(k0));
      add_product(kYes, columns, rows, scratch.ds, q_right, true, shared.dk.from(k0));
      add_product(kNo, rows, columns, scratch.ds, sides.keys.inner(k0), k0 > 0, head.dq.from(q0));
    }
  }
}

void clear_rows(const Matrix& matrix, std::int64_t rows, std::int64_t columns) {
  for (std::int64_t r = 0; r < rows; ++r) std::fill_n(matrix.row(r), columns, 0.0F);
}

template <class Products>
void backward_heads(Context& ctx, const AttentionBackwardArgs& args) {
  const AttentionShape shape = args.shape;
  const std::int64_t head_dim = shape.head_dim;
  const std::int64_t sequence_length = args.sequence_length;
  const std::int64_t sequences = args.q.extent(0) / sequence_length;
  const std::int64_t group = shape.heads / shape.kv_heads;  // query heads that share a key/value head
  const std::uint8_t* padding = padding_of(args.padding);

  const ConstMatrix q = matrix(args.q);
  const ConstMatrix k = matrix(args.k);
  const ConstMatrix v = matrix(args.v);
  const ConstMatrix y = matrix(args.y);
  const ConstMatrix log_sum_exp = matrix(args.log_sum_exp);
  const ConstMatrix dy = matrix(args.dy);
  const Matrix dq = matrix(args.dq);
  const Matrix dk = matrix(args.dk);
  const Matrix dv = matrix(args.dv);

  const Arena::Mark mark(*ctx.arena);
  float* scratch_memory = ctx.arena->allocate({omp_get_max_threads(), 2 * kScores}).data<float>();
  const ProductsScratch<Products> products_scratch(ctx, omp_get_max_threads(), sequence_length, head_dim);
  bool failed = false;
  // A key/value head and all queries that share it belong to one thread: dk and dv need no other's sums.
#pragma omp parallel for schedule(static) reduction(|| : failed)
  for (std::int64_t item = 0; item < sequences * shape.kv_heads; ++item) {
    const std::int64_t first_token = item / shape.kv_heads * sequence_length;
    const std::int64_t kv_head = item % shape.kv_heads;
    const std::int64_t kv_column = kv_head * head_dim;
    float* p = scratch_memory + omp_get_thread_num() * 2 * kScores;
    const Scratch scratch{.p = {p, kKeyBlock}, .ds = {p + kScores, kKeyBlock}};
    const Visibility visibility{sequence_length, sequence_length, args.causal,
                                padding == nullptr ? nullptr : padding + first_token};
    const KeyValueHead shared{.k = k.from(first_token, kv_column),
                              .v = v.from(first_token, kv_column),
                              .dk = dk.from(first_token, kv_column),
                              .dv = dv.from(first_token, kv_column)};
    clear_rows(shared.dk, sequence_length, head_dim);
    clear_rows(shared.dv, sequence_length, head_dim);
    Products products = products_scratch.of_thread(omp_get_thread_num());
    const KeyValueSides<Products> sides{
        .keys_transposed = products.right(Transpose::kYes, head_dim, sequence_length, shared.k),
        .keys = products.right(Transpose::kNo, sequence_length, head_dim, shared.k),
        .values_transposed = products.right(Transpose::kYes, head_dim, sequence_length, shared.v)};
    for (std::int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      const std::int64_t column = head * head_dim;
      const QueryHead query_head{.q = q.from(first_token, column),
                                 .y = y.from(first_token, column),
                                 .log_sum_exp = log_sum_exp.from(first_token, head),
                                 .dy = dy.from(first_token, column),
                                 .dq = dq.from(first_token, column)};
      backward_head(query_head, shared, sides, visibility, head_dim, scratch, products);
    }
    failed = failed || products.failed();
  }
  CONCLAVE_CHECK(!failed, "oneDNN refused a product of attention's blocks (out of memory?)");
}

}  // namespace

void attention_backward(Context& ctx, const AttentionBackwardArgs& args) {
  if (ctx.compute == DType::kBFloat16) {
    backward_heads<Bf16Products>(ctx, args);
  } else {
    backward_heads<Fp32Products>(ctx, args);
  }
}

}  // namespace conclave::cpu
