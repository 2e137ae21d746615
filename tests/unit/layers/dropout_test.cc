#include "layers/ops/dropout/dropout.h"

#include <cmath>

#include "tests/support/operator_test.h"

namespace conclave {
namespace {

using namespace test;

struct Dropped {
  Values<float> x;
  Values<std::uint8_t> kept;
};

Dropped drop(const Values<float>& x, Shape shape, float rate, const std::vector<std::int64_t>& first_block) {
  LocalContext ctx;
  Dropped result{x, Values<std::uint8_t>(x.size())};
  dropout(ctx, {.random = RandomStream(1, "dropout"),
                .first_block = first_block,
                .rate = rate,
                .x = view(result.x, shape),
                .kept = view(result.kept, shape)});
  return result;
}

TEST(Dropout, ScalesWhatItKeepsAndDropsAtItsRate) {
  constexpr std::int64_t kRows = 300, kWidth = 101;
  constexpr double kRate = 0.3;
  std::vector<std::int64_t> first_block;
  for (std::int64_t r = 0; r < kRows; ++r) first_block.push_back(r * dropout_blocks(kWidth));
  const auto x = random_values(kRows * kWidth, "x");
  const Dropped dropped = drop(x, {kRows, kWidth}, kRate, first_block);
  double count = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    count += 1 - dropped.kept[i];
    EXPECT_FLOAT_EQ(dropped.x[i], dropped.kept[i] ? x[i] / 0.7F : 0.0F);
  }
  const auto n = static_cast<double>(x.size());
  EXPECT_NEAR(count / n, kRate, 5 * std::sqrt(kRate * (1 - kRate) / n));  // five standard deviations

  LocalContext ctx;
  auto dx = x;
  dropout_backward(
      ctx, {.kept = view(dropped.kept, {kRows, kWidth}), .rate = kRate, .dx = view(dx, {kRows, kWidth})});
  EXPECT_EQ(dx, dropped.x);  // linear: the gradient takes the same way
}

TEST(Dropout, TheMaskBelongsToTheRowsNumbersNotToItsPlace) {
  const Values<float> ones(3 * 9, 1.0F);
  const auto one_order = drop(ones, {3, 9}, 0.5F, {30, 0, 12});
  const auto another = drop(ones, {3, 9}, 0.5F, {0, 12, 30});
  const auto row = [](const Dropped& d, std::int64_t r) {
    return Values<float>(d.x.begin() + r * 9, d.x.begin() + (r + 1) * 9);
  };
  EXPECT_EQ(row(one_order, 0), row(another, 2));
  EXPECT_EQ(row(one_order, 1), row(another, 0));
  EXPECT_EQ(row(one_order, 2), row(another, 1));
  EXPECT_NE(row(one_order, 0), row(one_order, 1));
}

TEST(Dropout, AnElementStaysIfItsRandomNumberIsAtLeastTheRate) {
  const std::int64_t first = (std::int64_t{1} << 33) + 5;  // both halves of an index count
  const Dropped dropped = drop(Values<float>(2 * 11, 1.0F), {2, 11}, 0.4F, {first, 7});
  const RandomStream random(1, "dropout");
  for (std::size_t i = 0; i < dropped.kept.size(); ++i) {
    const std::size_t f = i % 11;
    const auto block = static_cast<std::uint64_t>(i < 11 ? first : 7) + f / 4;
    EXPECT_EQ(dropped.kept[i] != 0, random.uniform4(block)[f % 4] >= 0.4F) << i;
  }
}

TEST(Dropout, TakesNoRowsAndRefusesWhatDoesNotFit) {
  drop({}, {0, 4}, 0.5F, {});
  EXPECT_THROW(drop({1.0F}, {1, 1}, 1.0F, {0}), Error);
  EXPECT_THROW(drop({1.0F}, {1, 1}, 0.5F, {}), Error);
}

}  // namespace
}  // namespace conclave
