// What grouped products promise on a GPU alone: bf16 factors, offsets that the GPU knows, rows beyond them,
// and results that depend on no other row.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <optional>

#include "comm/cuda/runtime.h"
#include "layers/ops/grouped_gemm/grouped_gemm.h"
#include "tests/support/dot_sum.h"
#include "tests/support/operator_test.h"
#include "tests/support/tolerance.h"

namespace conclave::test {
namespace {

constexpr float kInitialGradient = 0.5F;  // what the weight gradient is added to

struct Sizes {
  std::vector<std::int64_t> offsets;
  std::int64_t rows = 0;  // R, at least offsets.back()
  std::int64_t n = 0;
  std::int64_t k = 0;

  std::int64_t experts() const { return std::ssize(offsets) - 1; }
};

struct Types {
  DType factors = DType::kBFloat16;
  DType results = DType::kFloat32;
};

float at(ConstTensorView tensor, std::int64_t i) {
  return tensor.dtype() == DType::kBFloat16 ? static_cast<float>(tensor.data<bfloat16>()[i])
                                            : tensor.data<float>()[i];
}
void set(TensorView tensor, std::int64_t i, float value) {
  if (tensor.dtype() == DType::kBFloat16) {
    tensor.data<bfloat16>()[i] = bfloat16(value);
  } else {
    tensor.data<float>()[i] = value;
  }
}

// The bits of rows [first, last).
std::vector<std::byte> bytes_of(ConstTensorView tensor, std::int64_t first, std::int64_t last) {
  const ConstTensorView rows = tensor.rows(first, last);
  std::vector<std::byte> bytes(static_cast<std::size_t>(rows.elements()) * size_of(rows.dtype()));
  std::memcpy(bytes.data(), rows.raw(), bytes.size());
  return bytes;
}

// By the compute capability of the emulated GPU: 8.0 multiplies bf16 by warps, 9.0 by warpgroups. A real GPU
// does what it can.
class GroupedGemmGpuTest : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    if (cuda::gpus().empty()) GTEST_SKIP() << "no GPU here";
    engine_.emplace(0);
    arena_.emplace(engine_->device());
    ctx_.gpu = &*engine_;
    ctx_.arena = &*arena_;
  }

  TensorView filled(Shape shape, DType dtype, float value) {
    const TensorView tensor = arena_->allocate(shape, dtype);
    for (std::int64_t i = 0; i < tensor.elements(); ++i) set(tensor, i, value);
    return tensor;
  }
  // The same values in every type, rounded; in rows from `rows` on NaN.
  TensorView random(Shape shape, DType dtype, std::string_view name, std::int64_t rows) {
    const TensorView tensor = filled(shape, dtype, std::nanf(""));
    const std::vector<float> values = random_values(rows * shape.row_elements(), name);
    for (std::size_t i = 0; i < values.size(); ++i) set(tensor, static_cast<std::int64_t>(i), values[i]);
    return tensor;
  }
  ConstTensorView on_gpu(const std::vector<std::int64_t>& values) {
    const TensorView tensor = arena_->allocate({std::ssize(values)}, DType::kInt64);
    std::ranges::copy(values, tensor.data<std::int64_t>());
    return {tensor.raw(), tensor.shape(), DType::kInt64, engine_->device()};
  }

  struct Tensors {
    TensorView x, dy, weights, y, dx, dweights;
    ConstTensorView offsets;
  };
  Tensors tensors(const Sizes& sizes, Types types) {
    const std::int64_t rows = sizes.offsets.back();
    const Shape stacked{sizes.experts(), sizes.n, sizes.k};
    return {.x = random({sizes.rows, sizes.k}, types.factors, "x", rows),
            .dy = random({sizes.rows, sizes.n}, types.factors, "dy", rows),
            .weights = random(stacked, types.factors, "weights", sizes.experts()),
            .y = filled({sizes.rows, sizes.n}, types.results, std::nanf("")),
            .dx = filled({sizes.rows, sizes.k}, types.results, std::nanf("")),
            .dweights = filled(stacked, DType::kFloat32, kInitialGradient),
            .offsets = on_gpu(sizes.offsets)};
  }
  void compute(const Tensors& t) {
    grouped_gemm(ctx_, {t.x, t.weights, t.offsets, t.y});
    grouped_gemm_input_gradient(ctx_, {t.dy, t.weights, t.offsets, t.dx});
    grouped_gemm_weight_gradient(ctx_, {t.dy, t.x, t.offsets, t.dweights});
    ctx_.synchronize();
  }

  void expect_matches_reference(const Sizes& sizes, Types types);

  Environment capability_{"CONCLAVE_EMULATED_CAPABILITY", std::to_string(GetParam())};
  EmulatedGpus gpus_{1};
  std::optional<cuda::Engine> engine_;
  std::optional<Arena> arena_;
  Context ctx_;
};

// Products of bf16 are exact in fp32. Tensor cores may cut off where fp32 additions round to nearest: at most
// twice the error. A result in bf16 is rounded once more, to eight bits.
void expect_near(ConstTensorView actual, std::int64_t i, const DotSum& sum, const char* what) {
  double bound = 2 * dot_bound(sum.terms, sum.magnitude);
  if (actual.dtype() == DType::kBFloat16) bound += 0x1p-8 * (std::abs(sum.value) + bound);
  ASSERT_TRUE(std::abs(at(actual, i) - sum.value) <= bound)
      << what << " at " << i << ": " << at(actual, i) << ", expected " << sum.value << " within " << bound;
}

void GroupedGemmGpuTest::expect_matches_reference(const Sizes& sizes, Types types) {
  const Tensors t = tensors(sizes, types);
  compute(t);
  for (std::int64_t e = 0; e < sizes.experts(); ++e) {
    const std::int64_t begin = sizes.offsets[static_cast<std::size_t>(e)];
    const std::int64_t end = sizes.offsets[static_cast<std::size_t>(e) + 1];
    const std::int64_t w = e * sizes.n * sizes.k;
    for (std::int64_t row = begin; row < end; ++row) {
      for (std::int64_t n = 0; n < sizes.n; ++n) {
        DotSum sum;
        for (std::int64_t k = 0; k < sizes.k; ++k)
          sum.add(at(t.x, row * sizes.k + k), at(t.weights, w + n * sizes.k + k));
        expect_near(t.y, row * sizes.n + n, sum, "y");
      }
      for (std::int64_t k = 0; k < sizes.k; ++k) {
        DotSum sum;
        for (std::int64_t n = 0; n < sizes.n; ++n)
          sum.add(at(t.dy, row * sizes.n + n), at(t.weights, w + n * sizes.k + k));
        expect_near(t.dx, row * sizes.k + k, sum, "dx");
      }
    }
    for (std::int64_t i = 0; i < sizes.n * sizes.k; ++i) {
      DotSum sum;
      sum.add(kInitialGradient, 1);
      for (std::int64_t row = begin; row < end; ++row)
        sum.add(at(t.dy, row * sizes.n + i / sizes.k), at(t.x, row * sizes.k + i % sizes.k));
      expect_near(t.dweights, w + i, sum, "dweights");
    }
  }
  for (const TensorView& result : {t.y, t.dx}) {
    const std::int64_t elements = sizes.offsets.back() * result.shape().row_elements();
    for (std::int64_t i = elements; i < result.elements(); ++i)
      ASSERT_TRUE(std::isnan(at(result, i))) << "a row beyond the offsets was written";
  }
}

constexpr Types kFp32{DType::kFloat32, DType::kFloat32};
constexpr Types kBf16{DType::kBFloat16, DType::kBFloat16};
constexpr Types kBf16ToFp32{DType::kBFloat16, DType::kFloat32};

// Few rows an expert: small tiles; some without rows, and one with more than a tile.
TEST_P(GroupedGemmGpuTest, WidthsOfAllKinds) {
  for (const auto& [n, k] : {std::pair(1, 1), {7, 64}, {136, 7}, {64, 136}}) {
    for (const Types types : {kFp32, kBf16, kBf16ToFp32}) {
      expect_matches_reference({.offsets = {0, 3, 3, 20, 65, 65}, .rows = 70, .n = n, .k = k}, types);
    }
  }
}

TEST_P(GroupedGemmGpuTest, ManyRowsAnExpert) {
  for (const Types types : {kFp32, kBf16ToFp32})
    expect_matches_reference({.offsets = {0, 150, 291}, .rows = 300, .n = 40, .k = 72}, types);
}

TEST_P(GroupedGemmGpuTest, MoreRowTilesThanABand) {
  expect_matches_reference(
      {.offsets = {0, 0, 1, 311, 311, 312, 312, 312, 312}, .rows = 312, .n = 264, .k = 8}, kBf16ToFp32);
}

TEST_P(GroupedGemmGpuTest, MoreGroupsThanBlocksAndLanes) {
  std::vector<std::int64_t> offsets{0};
  for (std::int64_t e = 0; e < 70; ++e)  // groups 32 and 64, where a warp looks at the next ones, have rows
    offsets.push_back(offsets.back() + (e % 3 == 1 || e % 8 == 0 ? e % 5 : 0));
  for (const Types types : {kFp32, kBf16})
    expect_matches_reference({.offsets = offsets, .rows = offsets.back() + 2, .n = 8, .k = 16}, types);
}

TEST_P(GroupedGemmGpuTest, NothingToDo) {
  for (const Types types : {kFp32, kBf16}) {
    expect_matches_reference({.offsets = {0, 0, 0}, .rows = 0, .n = 5, .k = 3}, types);
    expect_matches_reference({.offsets = {0, 0, 0}, .rows = 4, .n = 5, .k = 3}, types);
    expect_matches_reference({.offsets = {0, 2, 5}, .rows = 5, .n = 4, .k = 0}, types);
    expect_matches_reference({.offsets = {0, 2, 5}, .rows = 5, .n = 0, .k = 4}, types);
    expect_matches_reference({.offsets = {0}, .rows = 3, .n = 5, .k = 3}, types);
  }
}

TEST_P(GroupedGemmGpuTest, AssignedGradientsAreZeroWithoutRows) {
  for (const Types types : {kFp32, kBf16}) {
    const Sizes sizes{.offsets = {0, 0, 9, 9}, .rows = 12, .n = 10, .k = 6};
    const Tensors t = tensors(sizes, types);
    const TensorView assigned = filled(t.dweights.shape(), DType::kFloat32, std::nanf(""));
    const TensorView added = filled(t.dweights.shape(), DType::kFloat32, 0.0F);
    grouped_gemm_weight_gradient(
        ctx_, {.dy = t.dy, .x = t.x, .offsets = t.offsets, .dweights = assigned, .accumulate = false});
    grouped_gemm_weight_gradient(ctx_, {.dy = t.dy, .x = t.x, .offsets = t.offsets, .dweights = added});
    ctx_.synchronize();
    for (std::int64_t i = 0; i < assigned.elements(); ++i) EXPECT_EQ(at(assigned, i), at(added, i)) << i;
  }
}

// The rows of one expert among others, in large tiles, are those of the expert alone, in small ones; and so
// is its gradient.
TEST_P(GroupedGemmGpuTest, ResultsDependOnNoOtherRow) {
  constexpr std::int64_t kFirst = 139;
  constexpr std::int64_t kRows = 50;
  constexpr std::int64_t kAll = 400;
  for (const Types types : {kFp32, kBf16ToFp32}) {
    const Sizes sizes{.offsets = {0, kFirst, kFirst + kRows, kAll}, .rows = kAll, .n = 24, .k = 88};
    const Tensors among = tensors(sizes, types);
    compute(among);
    Tensors alone = among;
    alone.x = among.x.rows(kFirst, kFirst + kRows);
    alone.dy = among.dy.rows(kFirst, kFirst + kRows);
    alone.weights = among.weights.rows(1, 2);
    alone.y = filled({kRows, sizes.n}, types.results, std::nanf(""));
    alone.dx = filled({kRows, sizes.k}, types.results, std::nanf(""));
    alone.dweights = filled({1, sizes.n, sizes.k}, DType::kFloat32, kInitialGradient);
    alone.offsets = on_gpu({0, kRows});
    compute(alone);
    EXPECT_EQ(bytes_of(alone.y, 0, kRows), bytes_of(among.y, kFirst, kFirst + kRows));
    EXPECT_EQ(bytes_of(alone.dx, 0, kRows), bytes_of(among.dx, kFirst, kFirst + kRows));
    EXPECT_EQ(bytes_of(alone.dweights, 0, 1), bytes_of(among.dweights, 1, 2));
  }
}

// Chunks of 16 bytes that lie askew take the slower way to the same bits.
TEST_P(GroupedGemmGpuTest, ResultsDoNotDependOnAlignment) {
  const Sizes sizes{.offsets = {0, 9, 30}, .rows = 30, .n = 16, .k = 24};
  const Tensors aligned = tensors(sizes, kBf16ToFp32);
  compute(aligned);
  const auto askew = [&](const TensorView& tensor) {
    const TensorView room = arena_->allocate({tensor.elements() + 1}, tensor.dtype());
    const TensorView moved = room.rows(1, tensor.elements() + 1).reshaped(tensor.shape());
    std::memcpy(moved.raw(), tensor.raw(),
                static_cast<std::size_t>(tensor.elements()) * size_of(tensor.dtype()));
    return moved;
  };
  const Tensors fresh = tensors(sizes, kBf16ToFp32);
  const Tensors moved{.x = askew(fresh.x),
                      .dy = askew(fresh.dy),
                      .weights = askew(fresh.weights),
                      .y = askew(fresh.y),
                      .dx = askew(fresh.dx),
                      .dweights = askew(fresh.dweights),
                      .offsets = fresh.offsets};
  compute(moved);
  EXPECT_EQ(bytes_of(moved.y, 0, sizes.rows), bytes_of(aligned.y, 0, sizes.rows));
  EXPECT_EQ(bytes_of(moved.dx, 0, sizes.rows), bytes_of(aligned.dx, 0, sizes.rows));
  EXPECT_EQ(bytes_of(moved.dweights, 0, 2), bytes_of(aligned.dweights, 0, 2));
}

TEST_P(GroupedGemmGpuTest, RefusesOtherTypes) {
  const Sizes sizes{.offsets = {0, 2}, .rows = 2, .n = 3, .k = 4};
  const Tensors t = tensors(sizes, kBf16);
  const TensorView fp32 = filled({2, 4}, DType::kFloat32, 1);
  EXPECT_THROW(grouped_gemm(ctx_, {fp32, t.weights, t.offsets, t.y}), Error) << "factors of two types";
  const TensorView fp32_weights = filled({1, 3, 4}, DType::kFloat32, 1);
  EXPECT_THROW(grouped_gemm(ctx_, {fp32, fp32_weights, t.offsets, t.y}), Error) << "fp32 to bf16";
}

INSTANTIATE_TEST_SUITE_P(Capabilities, GroupedGemmGpuTest, testing::Values(8, 86, 9));

}  // namespace
}  // namespace conclave::test
