#include "layers/ops/add/add.h"

#include "tests/support/operator_test.h"

namespace conclave {
namespace {

using namespace test;

TEST(Add, SumsElements) {
  LocalContext ctx;
  for (const std::int64_t count : {0, 1, 32, 33}) {
    const auto a = random_values(count, "a");
    const auto b = random_values(count, "b");
    Values<float> expected;
    for (std::size_t i = 0; i < a.size(); ++i) expected.push_back(a[i] + b[i]);
    Values<float> sum(a.size());
    add(ctx, {view(a, {count}), view(b, {count}), view(sum, {count})});
    EXPECT_EQ(sum, expected);
    sum = a;  // in place
    add(ctx, {view(sum, {count}), view(b, {count}), view(sum, {count})});
    EXPECT_EQ(sum, expected);
  }
}

TEST(Add, RefusesShapesThatDoNotFit) {
  LocalContext ctx;
  Values<float> six(6);
  EXPECT_THROW(add(ctx, {view(six, {2, 3}), view(six, {3, 2}), view(six, {2, 3})}), Error);
  EXPECT_THROW(add(ctx, {view(six, {2, 3}), view(six, {2, 3}), view(six, {6})}), Error);
}

}  // namespace
}  // namespace conclave
