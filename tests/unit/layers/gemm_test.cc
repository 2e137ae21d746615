#include "layers/ops/gemm/gemm.h"

#include "tests/support/operator_test.h"
#include "tests/support/tolerance.h"

namespace conclave {
namespace {

using namespace test;

struct Case {
  std::int64_t m, n, k;
};

class GemmTest : public testing::TestWithParam<Case> {};

INSTANTIATE_TEST_SUITE_P(Sizes, GemmTest,
                         testing::Values(Case{1, 1, 1}, Case{7, 5, 3}, Case{33, 17, 65}, Case{0, 4, 3},
                                         Case{4, 0, 3}, Case{4, 3, 0}, Case{1, 64, 130}));

TEST_P(GemmTest, EveryTransposition) {
  const auto [m, n, k] = GetParam();
  const auto a = random_values(m * k, "a");
  const auto b = random_values(k * n, "b");
  const auto before = random_values(m * n, "c");
  LocalContext ctx;
  for (const bool transpose_a : {false, true}) {
    for (const bool transpose_b : {false, true}) {
      for (const bool accumulate : {false, true}) {
        std::vector<double> expected;
        std::vector<double> bound;
        for (std::int64_t i = 0; i < m; ++i) {
          for (std::int64_t j = 0; j < n; ++j) {
            const double start = accumulate ? before[static_cast<std::size_t>(i * n + j)] : 0.0;
            double sum = start;
            double magnitude = std::abs(start);
            for (std::int64_t l = 0; l < k; ++l) {
              const double left = a[static_cast<std::size_t>(transpose_a ? l * m + i : i * k + l)];
              const double right = b[static_cast<std::size_t>(transpose_b ? j * k + l : l * n + j)];
              sum += left * right;
              magnitude += std::abs(left * right);
            }
            expected.push_back(sum);
            bound.push_back(dot_bound(static_cast<double>(k), magnitude));
          }
        }
        auto c = before;
        gemm(ctx, {.a = view(a, transpose_a ? Shape{k, m} : Shape{m, k}),
                   .b = view(b, transpose_b ? Shape{n, k} : Shape{k, n}),
                   .c = view(c, {m, n}),
                   .transpose_a = transpose_a,
                   .transpose_b = transpose_b,
                   .accumulate = accumulate});
        expect_within(c, expected, bound, "c");
      }
    }
  }
}

// Without accumulate the old content, which may be anything, must not enter.
TEST(Gemm, AssignsOverUninitialisedMemory) {
  const Values<float> one{1.0F};
  const Values<float> none;
  Values<float> c{std::numeric_limits<float>::quiet_NaN()};
  LocalContext ctx;
  gemm(ctx, {.a = view(one, {1, 1}), .b = view(one, {1, 1}), .c = view(c, {1, 1})});
  EXPECT_EQ(c[0], 1.0F);
  c[0] = std::numeric_limits<float>::quiet_NaN();
  gemm(ctx, {.a = view(none, {1, 0}), .b = view(none, {0, 1}), .c = view(c, {1, 1})});
  EXPECT_EQ(c[0], 0.0F);
}

TEST(Gemm, RefusesShapesThatDoNotFit) {
  const Values<float> six(6);
  Values<float> four(4);
  LocalContext ctx;
  EXPECT_THROW(gemm(ctx, {.a = view(six, {2, 3}), .b = view(six, {2, 3}), .c = view(four, {2, 2})}), Error);
  EXPECT_THROW(gemm(ctx, {.a = view(six, {2, 3}), .b = view(six, {3, 2}), .c = view(four, {4, 1})}), Error);
  EXPECT_THROW(gemm(ctx, {.a = view(six, {6}), .b = view(six, {3, 2}), .c = view(four, {2, 2})}), Error);
}

}  // namespace
}  // namespace conclave
