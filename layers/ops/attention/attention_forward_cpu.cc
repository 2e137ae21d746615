#include <omp.h>

#include <array>
#include <cmath>
#include <limits>

#include "layers/ops/attention/attention.h"
#include "layers/ops/attention/attention_block.h"
#include "layers/ops/attention/block_products.h"
#include "layers/ops/vector_math.h"

namespace conclave::cpu {
namespace {

// Query heads that share keys and values: those of one group, in one sequence.
struct HeadGroup {
  ConstMatrix k;           // [keys, hd]
  ConstMatrix v;           // [keys, hd]
  ConstMatrix q;           // [queries, heads hd]
  Matrix y;                // [queries, heads hd]
  Matrix log_sum_exp;      // [queries, heads]; no data: not wanted
  std::int64_t heads = 1;  // of the group
  Visibility visibility;
};

struct Head {
  ConstMatrix q;       // [queries, hd]
  Matrix y;            // [queries, hd]
  Matrix log_sum_exp;  // [queries, 1]
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
// vanishes with the first real score, and a row that ends with this maximum has seen no key. A power of two,
// whose product with any scale is exact: else a fused kHidden * scale - maximum is a large number, not 0.
constexpr float kHidden = -0x1p100F;

void hide_padding(float* scores, const std::uint8_t* padding, std::int64_t columns) {
#pragma omp simd
  for (std::int64_t c = 0; c < columns; ++c) scores[c] = padding[c] != 0 ? kHidden : scores[c];
}

void scale_row(float* row, std::int64_t head_dim, float factor) {
#pragma omp simd
  for (std::int64_t d = 0; d < head_dim; ++d) row[d] *= factor;
}

// `keys` is k^T [hd, keys], `values` v [keys, hd].
template <class Products>
void forward_head(const Head& head, const Visibility& visibility, std::int64_t head_dim,
                  const typename Products::Right& keys, const typename Products::Right& values, Matrix scores,
                  Products& products) {
  const float scale = 1.0F / std::sqrt(static_cast<float>(head_dim));
  for (std::int64_t q0 = 0; q0 < visibility.queries; q0 += kQueryBlock) {
    const typename Products::Frame of_block(products);
    const std::int64_t rows = std::min(kQueryBlock, visibility.queries - q0);
    const std::int64_t seen = visibility.keys_of(q0 + rows - 1);  // blocks beyond are hidden from every row
    const auto queries = products.left(Transpose::kNo, rows, head_dim, head.q.from(q0));
    const Matrix y = head.y.from(q0);
    std::array<OnlineSoftmax, kQueryBlock> softmax;
    for (std::int64_t k0 = 0; k0 < seen; k0 += kKeyBlock) {
      const typename Products::Frame of_scores(products);
      const std::int64_t columns = std::min(kKeyBlock, seen - k0);
      products.multiply(queries, keys.columns(k0), rows, columns, head_dim, false, scores);
      for (std::int64_t r = 0; r < rows; ++r) {
        const std::int64_t visible = std::clamp<std::int64_t>(visibility.keys_of(q0 + r) - k0, 0, columns);
        if (visibility.padding != nullptr) hide_padding(scores.row(r), visibility.padding + k0, columns);
        const float shrink = softmax[static_cast<std::size_t>(r)].absorb(
            scores.row(r), scale, static_cast<int>(visible), static_cast<int>(columns));
        if (k0 > 0 && shrink != 1.0F) scale_row(y.row(r), head_dim, shrink);
      }
      const auto weights = products.left(Transpose::kNo, rows, columns, scores);
      products.multiply(weights, values.inner(k0), rows, head_dim, columns, k0 > 0, y);
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

template <class Products>
void forward_group(const HeadGroup& group, std::int64_t head_dim, Matrix scores, Products& products) {
  const std::int64_t keys = group.visibility.keys;
  const typename Products::Frame of_group(products);
  const auto keys_side = products.right(Transpose::kYes, head_dim, keys, group.k);
  const auto values_side = products.right(Transpose::kNo, keys, head_dim, group.v);
  for (std::int64_t h = 0; h < group.heads; ++h) {
    const Matrix log_sum_exp = group.log_sum_exp.data == nullptr ? Matrix{} : group.log_sum_exp.from(0, h);
    forward_head({group.q.from(0, h * head_dim), group.y.from(0, h * head_dim), log_sum_exp},
                 group.visibility, head_dim, keys_side, values_side, scores, products);
  }
}

// Runs forward_group for every item; `group_of(item)` says which group of which sequence that is.
template <class Products, class GroupOf>
void forward_groups_with(Context& ctx, std::int64_t items, std::int64_t keys, std::int64_t head_dim,
                         GroupOf group_of) {
  const Arena::Mark scratch(*ctx.arena);
  float* scores = ctx.arena->allocate({omp_get_max_threads(), kScores}).data<float>();
  const ProductsScratch<Products> products_scratch(ctx, omp_get_max_threads(), keys, head_dim);
  bool failed = false;
#pragma omp parallel for schedule(static) reduction(|| : failed)
  for (std::int64_t item = 0; item < items; ++item) {
    Products products = products_scratch.of_thread(omp_get_thread_num());
    forward_group(group_of(item), head_dim, {scores + omp_get_thread_num() * kScores, kKeyBlock}, products);
    failed = failed || products.failed();
  }
  CONCLAVE_CHECK(!failed, "oneDNN refused a product of attention's blocks (out of memory?)");
}

template <class GroupOf>
void forward_groups(Context& ctx, std::int64_t items, std::int64_t keys, std::int64_t head_dim,
                    GroupOf group_of) {
  if (ctx.compute == DType::kBFloat16) {
    forward_groups_with<Bf16Products>(ctx, items, keys, head_dim, group_of);
  } else {
    forward_groups_with<Fp32Products>(ctx, items, keys, head_dim, group_of);
  }
}

}  // namespace

void attention_forward(Context& ctx, const AttentionForwardArgs& args) {
  const AttentionShape shape = args.shape;
  const std::int64_t sequence_length = args.sequence_length;
  const std::int64_t sequences = args.q.extent(0) / sequence_length;
  const std::int64_t heads = shape.heads / shape.kv_heads;  // of a group
  const std::uint8_t* padding = padding_of(args.padding);
  const bool causal = args.causal;
  const ConstMatrix q = matrix(args.q);
  const ConstMatrix k = matrix(args.k);
  const ConstMatrix v = matrix(args.v);
  const Matrix y = matrix(args.y);
  const Matrix log_sum_exp = matrix(args.log_sum_exp);
  forward_groups(ctx, sequences * shape.kv_heads, sequence_length, shape.head_dim, [=](std::int64_t item) {
    const std::int64_t first_token = item / shape.kv_heads * sequence_length;
    const std::int64_t group = item % shape.kv_heads;
    const std::int64_t column = group * heads * shape.head_dim;
    return HeadGroup{.k = k.from(first_token, group * shape.head_dim),
                     .v = v.from(first_token, group * shape.head_dim),
                     .q = q.from(first_token, column),
                     .y = y.from(first_token, column),
                     .log_sum_exp = log_sum_exp.from(first_token, group * heads),
                     .heads = heads,
                     .visibility = {sequence_length, sequence_length, causal,
                                    padding == nullptr ? nullptr : padding + first_token}};
  });
}

void attention_decode(Context& ctx, const AttentionDecodeArgs& args) {
  const AttentionShape shape = args.shape;
  const std::int64_t heads = shape.heads / shape.kv_heads;  // of a group
  const Visibility visibility{args.q.extent(0), args.k.extent(0)};
  const ConstMatrix q = matrix(args.q);
  const ConstMatrix k = matrix(args.k);
  const ConstMatrix v = matrix(args.v);
  const Matrix y = matrix(args.y);
  forward_groups(ctx, shape.kv_heads, visibility.keys, shape.head_dim, [=](std::int64_t group) {
    return HeadGroup{.k = k.from(0, group * shape.head_dim),
                     .v = v.from(0, group * shape.head_dim),
                     .q = q.from(0, group * heads * shape.head_dim),
                     .y = y.from(0, group * heads * shape.head_dim),
                     .log_sum_exp = {},
                     .heads = heads,
                     .visibility = visibility};
  });
}

}  // namespace conclave::cpu
