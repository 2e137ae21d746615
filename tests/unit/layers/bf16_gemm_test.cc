#include "layers/ops/bf16_gemm/bf16_gemm.h"

#include <gtest/gtest.h>

#include <cmath>

#include "comm/base/error.h"
#include "tests/support/dot_sum.h"
#include "tests/support/operator_test.h"
#include "tests/support/tolerance.h"

namespace conclave::test {
namespace {

constexpr double kRounding = 0x1p-8;  // of bf16: half a unit in the last place, relative

class Bf16GemmTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!has_bf16_products()) GTEST_SKIP() << "this processor has no AVX512-BF16";
  }
};

double rounded(float value) { return static_cast<float>(bfloat16(value)); }

// The same values as fp32 or as bf16.
class Values {
 public:
  Values(std::vector<float> values, DType dtype) : fp32_(std::move(values)), dtype_(dtype) {
    for (const float value : fp32_) bf16_.emplace_back(value);
  }
  ConstTensorView view(Shape shape) const {
    if (dtype_ == DType::kFloat32) return tensor_view(std::span(fp32_), shape);
    return tensor_view(std::span(bf16_), shape);
  }
  double operator[](std::int64_t i) const { return rounded(fp32_[static_cast<std::size_t>(i)]); }

 private:
  std::vector<float> fp32_;
  std::vector<bfloat16> bf16_;
  DType dtype_;
};

struct Case {
  std::vector<std::int64_t> offsets;
  std::int64_t n = 0;
  std::int64_t k = 0;
  DType input = DType::kFloat32;

  std::int64_t experts() const { return std::ssize(offsets) - 1; }
  std::int64_t rows() const { return offsets.back(); }
  std::int64_t begin(std::int64_t e) const { return offsets[static_cast<std::size_t>(e)]; }
};

// An fp32 sum of exact products; `rounding` of the result comes on top.
void expect_near(double actual, const DotSum& sum, double rounding, const char* what, std::int64_t row,
                 std::int64_t column) {
  const double bound = dot_bound(sum.terms, sum.magnitude) * (1 + rounding) + rounding * std::abs(sum.value);
  ASSERT_TRUE(std::abs(actual - sum.value) <= bound)
      << what << " at " << row << ", " << column << ": " << actual << ", expected " << sum.value << " +- "
      << bound;
}

TensorView packed_weights(Context& ctx, ConstTensorView weights, bool transpose) {
  const std::int64_t k = weights.extent(transpose ? 2 : 1);
  const std::int64_t n = weights.extent(transpose ? 1 : 2);
  const TensorView packed = ctx.arena->allocate({weights.extent(0), packed_elements(k, n)}, DType::kBFloat16);
  pack_right_side(ctx, {.matrices = weights, .transpose = transpose, .packed = packed});
  return packed;
}

std::vector<double> doubles(ConstTensorView tensor) {
  std::vector<double> values;
  if (tensor.dtype() == DType::kFloat32) {
    for (const float v : tensor.values<float>()) values.push_back(v);
  } else {
    for (const bfloat16 v : tensor.values<bfloat16>()) values.push_back(static_cast<float>(v));
  }
  return values;
}

void expect_matches_reference(const Case& c) {
  LocalContext ctx;
  const Values x(random_values(c.rows() * c.k, "x"), c.input);
  const Values dy(random_values(c.rows() * c.n, "dy"), c.input);
  const Values w(random_values(c.experts() * c.n * c.k, "weights"), DType::kFloat32);
  const ConstTensorView weights = w.view({c.experts(), c.n, c.k});
  const TensorView forward = packed_weights(ctx, weights, true);
  const TensorView backward = packed_weights(ctx, weights, false);

  for (const DType output : {DType::kFloat32, DType::kBFloat16}) {
    for (const bool accumulate : {false, true}) {
      const double rounding = output == DType::kBFloat16 ? kRounding : 0;
      const double before = accumulate ? 0.5 : 0.0;
      const TensorView y = ctx.arena->allocate({c.rows(), c.n}, output);
      const TensorView dx = ctx.arena->allocate({c.rows(), c.k}, output);
      for (const TensorView& result : {y, dx}) {
        const float start = accumulate ? 0.5F : NAN;
        if (output == DType::kFloat32) {
          std::ranges::fill(result.values<float>(), start);
        } else {
          std::ranges::fill(result.values<bfloat16>(), bfloat16(start));
        }
      }
      bf16_grouped_gemm(ctx, {x.view({c.rows(), c.k}), forward, c.offsets, y, accumulate});
      bf16_grouped_gemm(ctx, {dy.view({c.rows(), c.n}), backward, c.offsets, dx, accumulate});
      const std::vector<double> y_values = doubles(y);
      const std::vector<double> dx_values = doubles(dx);
      for (std::int64_t e = 0; e < c.experts(); ++e) {
        for (std::int64_t row = c.begin(e); row < c.begin(e + 1); ++row) {
          for (std::int64_t n = 0; n < c.n; ++n) {
            DotSum sum;
            sum.add(before, 1);
            for (std::int64_t k = 0; k < c.k; ++k) sum.add(x[row * c.k + k], w[(e * c.n + n) * c.k + k]);
            expect_near(y_values[static_cast<std::size_t>(row * c.n + n)], sum, rounding, "y", row, n);
          }
          for (std::int64_t k = 0; k < c.k; ++k) {
            DotSum sum;
            sum.add(before, 1);
            for (std::int64_t n = 0; n < c.n; ++n) sum.add(dy[row * c.n + n], w[(e * c.n + n) * c.k + k]);
            expect_near(dx_values[static_cast<std::size_t>(row * c.k + k)], sum, rounding, "dx", row, k);
          }
        }
      }
    }
  }

  for (const bool accumulate : {false, true}) {
    std::vector<float> dweights(static_cast<std::size_t>(c.experts() * c.n * c.k), accumulate ? 0.5F : NAN);
    bf16_grouped_gemm_weight_gradient(ctx, {dy.view({c.rows(), c.n}), x.view({c.rows(), c.k}), c.offsets,
                                            view(dweights, weights.shape()), accumulate});
    for (std::int64_t e = 0; e < c.experts(); ++e) {
      for (std::int64_t n = 0; n < c.n; ++n) {
        for (std::int64_t k = 0; k < c.k; ++k) {
          DotSum sum;
          sum.add(accumulate ? 0.5 : 0.0, 1);
          for (std::int64_t r = c.begin(e); r < c.begin(e + 1); ++r) sum.add(dy[r * c.n + n], x[r * c.k + k]);
          expect_near(dweights[static_cast<std::size_t>((e * c.n + n) * c.k + k)], sum, 0, "dweights", n, k);
        }
      }
    }
  }
}

TEST_F(Bf16GemmTest, UnevenExperts) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    expect_matches_reference({{0, 3, 3, 20, 21, 40}, 13, 7, dtype});
    expect_matches_reference({{0, 14, 15, 39}, 65, 34, dtype});
    expect_matches_reference({{0, 12, 24}, 64, 32, dtype});
  }
}
TEST_F(Bf16GemmTest, NoRowsNoExpertsNoColumns) {
  expect_matches_reference({{0, 0, 0}, 5, 3});
  expect_matches_reference({{0}, 5, 3});
  expect_matches_reference({{0, 2, 5}, 0, 3});
  expect_matches_reference({{0, 2, 5}, 4, 0});
  expect_matches_reference({{0, 1, 2}, 1, 1});
}
TEST_F(Bf16GemmTest, MoreRowsThanABlock) { expect_matches_reference({{0, 97, 697, 698}, 100, 33}); }

TEST_F(Bf16GemmTest, RowsInPlaceGiveTheBitsOfTheirPanel) {
  for (const std::int64_t k : {2, 64, 70, 2048}) {  // a multiple of 2048 is packed in any case
    const std::int64_t rows = 31;
    const std::int64_t n = 45;
    std::vector<float> values = random_values(rows * k, "x");
    for (float& value : values) value = static_cast<float>(bfloat16(value));
    const Values in_place(values, DType::kBFloat16);
    const Values w(random_values(n * k, "weights"), DType::kFloat32);
    LocalContext ctx;
    const TensorView packed = packed_weights(ctx, w.view({1, n, k}), true);
    const std::vector<std::int64_t> offsets{0, rows};
    std::vector<float> y(static_cast<std::size_t>(rows * n));
    std::vector<float> y_of_panel = y;
    bf16_grouped_gemm(ctx, {in_place.view({rows, k}), packed, offsets, view(y, {rows, n})});
    bf16_grouped_gemm(ctx, {view(values, {rows, k}), packed, offsets, view(y_of_panel, {rows, n})});
    EXPECT_EQ(y, y_of_panel) << k;
  }
}

// From 4 MiB on, a gradient whose rows begin on cache lines is written past the caches.
TEST_F(Bf16GemmTest, LargeWeightGradientsHaveTheSameBits) {
  const std::int64_t n = 501;
  const std::int64_t k = 528;  // whole cache lines, but not whole tiles
  const std::vector<std::int64_t> offsets{0, 0, 9, 10, 530, 531};
  const Values x(random_values(offsets.back() * k, "x"), DType::kBFloat16);
  const Values dy(random_values(offsets.back() * n, "dy"), DType::kFloat32);
  const Shape shape{std::ssize(offsets) - 1, n, k};
  LocalContext ctx;
  const TensorView memory = ctx.arena->allocate({shape.elements() + 1});
  const auto gradient_at = [&](std::int64_t offset) {
    const TensorView dweights = memory.rows(offset, offset + shape.elements()).reshaped(shape);
    std::ranges::fill(dweights.values<float>(), NAN);
    bf16_grouped_gemm_weight_gradient(
        ctx, {dy.view({offsets.back(), n}), x.view({offsets.back(), k}), offsets, dweights, false});
    const auto values = dweights.values<float>();
    return std::vector<float>(values.begin(), values.end());
  };
  EXPECT_EQ(gradient_at(0), gradient_at(1));
}

TEST_F(Bf16GemmTest, BitsDependNeitherOnThreadsNorOnOtherRows) {
  const std::int64_t k = 70;
  const std::int64_t n = 45;
  const Values x(random_values(200 * k, "x"), DType::kBFloat16);
  const Values w(random_values(n * k, "weights"), DType::kFloat32);
  const auto run = [&](int threads, std::int64_t rows) {
    const ThreadCount scope(threads);
    LocalContext ctx;
    const TensorView packed = packed_weights(ctx, w.view({1, n, k}), true);
    std::vector<float> y(static_cast<std::size_t>(rows * n));
    std::vector<float> dweights(static_cast<std::size_t>(n * k));
    const std::vector<std::int64_t> offsets{0, rows};
    const ConstTensorView inputs = x.view({200, k}).rows(0, rows);
    bf16_grouped_gemm(ctx, {inputs, packed, offsets, view(y, {rows, n})});
    bf16_grouped_gemm_weight_gradient(ctx, {view(y, {rows, n}), inputs, offsets, view(dweights, {1, n, k})});
    return std::pair(y, dweights);
  };
  const auto one = run(1, 200);
  EXPECT_EQ(one, run(3, 200));
  const auto few = run(2, 17).first;
  EXPECT_TRUE(std::equal(few.begin(), few.end(), one.first.begin()));
}

TEST_F(Bf16GemmTest, RefusesWhatDoesNotFit) {
  LocalContext ctx;
  const Values x(random_values(12, "x"), DType::kFloat32);
  const TensorView packed = ctx.arena->allocate({1, packed_elements(4, 5)}, DType::kBFloat16);
  std::vector<float> y(15);
  const std::vector<std::int64_t> offsets{0, 3};
  EXPECT_THROW(bf16_grouped_gemm(ctx, {x.view({4, 3}), packed, offsets, view(y, {3, 5})}), Error);
  const std::vector<std::int64_t> short_offsets{0, 2};
  EXPECT_THROW(bf16_grouped_gemm(ctx, {x.view({3, 4}), packed, short_offsets, view(y, {3, 5})}), Error);
}

}  // namespace
}  // namespace conclave::test
