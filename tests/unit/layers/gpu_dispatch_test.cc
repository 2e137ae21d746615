// The MoE layer's bookkeeping on an emulated GPU against the same on the host, which has tests of its own:
// plans number for number, drops with ties and NaN, counts, token numbers, moved rows.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <numeric>

#include "comm/cuda/runtime.h"
#include "layers/cuda/arguments.h"
#include "layers/cuda/moe_kernels.h"
#include "layers/moe/dispatched_rows.h"
#include "layers/moe/gpu_tally.h"
#include "layers/moe/survivor_weights.h"
#include "tests/support/operator_test.h"
#include "tests/support/test_gpu.h"

namespace conclave::test {
namespace {

struct Choices {
  std::int64_t tokens = 0;
  std::int64_t top_k = 0;
  std::vector<std::int32_t> experts;  // [T, K]
  std::vector<float> weights;         // [T, K]

  Routing routing() const {
    return {tensor_view(std::span(experts), {tokens, top_k}),
            tensor_view(std::span(weights), {tokens, top_k})};
  }
};

// K different experts a token, the lower ids more often; every seventh place is empty. Weights take few
// values, so that ties are common, and some are NaN.
Choices random_choices(std::int64_t tokens, std::int64_t top_k, std::int64_t experts) {
  const RandomStream random(11, "choices");
  std::uint64_t index = 0;
  Choices choices{tokens, top_k, {}, {}};
  for (std::int64_t t = 0; t < tokens; ++t) {
    std::vector<std::int32_t> ids(static_cast<std::size_t>(experts));
    std::iota(ids.begin(), ids.end(), 0);
    for (std::int64_t k = 0; k < top_k; ++k) {
      const auto left = static_cast<std::uint32_t>(ids.size());
      const std::uint32_t at = random.bits(index) % left * (random.bits(index + 1) % left) / left;
      index += 2;
      choices.experts.push_back(random.bits(index++) % 7 == 0 ? kNoExpert : ids[at]);
      ids.erase(ids.begin() + at);
      const std::uint32_t weight = random.bits(index++) % 9;
      choices.weights.push_back(weight == 8 ? std::numeric_limits<float>::quiet_NaN()
                                            : static_cast<float>(weight) / 8.0F);
    }
  }
  return choices;
}

class GpuDispatchTest : public testing::Test {
 protected:
  GpuDispatchTest() {
    if (cuda::gpus().empty()) return;
    engine_ = std::make_unique<cuda::Engine>(0);
    arena_ = std::make_unique<Arena>(engine_->device());
    ctx_.gpu = engine_.get();
    ctx_.arena = arena_.get();
  }
  void SetUp() override {
    if (engine_ == nullptr) GTEST_SKIP() << "no GPU here";
  }

  template <class Numbers>
  TensorView on_gpu(const Numbers& values, Shape shape) {
    using T = typename Numbers::value_type;
    const TensorView tensor = ctx_.arena->allocate(shape, dtype_of<T>);
    engine_->staging().upload(tensor.raw(), values.data(), values.size() * sizeof(T));
    return tensor;
  }
  template <class T>
  std::vector<T> on_host(const ConstTensorView& tensor) {
    std::vector<T> values(static_cast<std::size_t>(tensor.elements()));
    engine_->staging().download(values.data(), tensor.raw(), values.size() * sizeof(T));
    return values;
  }

  void expect_same_plan(const Choices& choices, std::int64_t experts, std::int64_t capacity,
                        config::Moe::Drop drop, bool fill_up) {
    SCOPED_TRACE(fmt::format("T {} K {} E {} C {} drop {} fill_up {}", choices.tokens, choices.top_k, experts,
                             capacity, static_cast<int>(drop), fill_up));
    DispatchPlan expected;
    make_dispatch_plan(choices.routing(), experts, capacity, drop, expected);
    if (fill_up) fill_up_to_capacity(capacity, expected);

    const Shape shape{choices.tokens, choices.top_k};
    const Routing routing{on_gpu(choices.experts, shape), on_gpu(choices.weights, shape)};
    GpuTally tally(ctx_, experts, choices.top_k);
    const DispatchedRows rows = dispatch_on_gpu(ctx_, routing,
                                                {.experts = experts,
                                                 .capacity = capacity,
                                                 .drop = drop,
                                                 .fill_up = fill_up,
                                                 .counts = &tally.counts()});
    EXPECT_EQ(on_host<std::int64_t>(rows.expert_offsets), expected.expert_offsets);
    EXPECT_EQ(on_host<std::int32_t>(rows.row_of_choice), expected.row_of_choice);
    std::vector<std::int32_t> choice_of_row = on_host<std::int32_t>(rows.choice_of_row);
    ASSERT_GE(choice_of_row.size(), expected.choice_of_row.size());
    expected.choice_of_row.resize(choice_of_row.size(), DispatchPlan::kNoChoice);
    EXPECT_EQ(choice_of_row, expected.choice_of_row);

    const auto counted = [](const std::int64_t* counts, std::int64_t size) {
      return std::vector<std::int64_t>(counts, counts + size);
    };
    tally.wait();
    const cuda::DispatchCounts& counts = tally.counts();
    EXPECT_EQ(counted(counts.chosen_per_expert, experts), expected.chosen_per_expert);
    EXPECT_EQ(counted(counts.kept_per_expert, experts), expected.kept_per_expert);
    EXPECT_EQ(counted(counts.chosen_per_choice, choices.top_k), expected.chosen_per_choice);
    EXPECT_EQ(counted(counts.dropped_per_choice, choices.top_k), expected.dropped_per_choice);
    ctx_.arena->reset();
  }

  EmulatedGpus gpus_{1};
  std::unique_ptr<cuda::Engine> engine_;
  std::unique_ptr<Arena> arena_;
  Context ctx_;
};

TEST_F(GpuDispatchTest, PlansAreThoseOfTheHost) {
  for (const std::int64_t tokens : {0, 1, 37, 300}) {
    const Choices choices = random_choices(tokens, 3, 5);
    for (const std::int64_t capacity : {std::int64_t{0}, std::int64_t{1}, tokens / 4, tokens}) {
      for (const auto drop :
           {config::Moe::position, config::Moe::probability, config::Moe::batch_prioritized}) {
        for (const bool fill_up : {false, true}) expect_same_plan(choices, 5, capacity, drop, fill_up);
      }
    }
  }
}

TEST_F(GpuDispatchTest, PlansOfManyExpertsAndOfOne) {
  expect_same_plan(random_choices(70, 2, 1300), 1300, 70, config::Moe::position, false);
  expect_same_plan(random_choices(70, 1, 1), 1, 33, config::Moe::probability, false);
}

TEST_F(GpuDispatchTest, RefusesMoreRowsThan32BitsCanNumber) {
  const Choices choices = random_choices(2, 1, 2);
  const Routing routing{on_gpu(choices.experts, {2, 1}), on_gpu(choices.weights, {2, 1})};
  EXPECT_THROW(
      dispatch_on_gpu(ctx_, routing, {.experts = 2, .capacity = std::int64_t{1} << 31, .fill_up = true}),
      Error);
}

TEST_F(GpuDispatchTest, SurvivorsWeighAsOnTheHost) {
  constexpr std::int64_t T = 50;
  constexpr std::int64_t K = 3;
  const Shape shape{T, K};
  const Values<float> weights = random_values(T * K, "weights");
  std::vector<std::int32_t> row_of_choice(T * K);
  for (std::int32_t i = 0; i < T * K; ++i) row_of_choice[static_cast<std::size_t>(i)] = i % 4 == 0 ? -1 : i;
  for (std::int64_t k = 0; k < K; ++k) row_of_choice[static_cast<std::size_t>(7 * K + k)] = -1;
  const Values<float> dsurvivors = random_values(T * K, "dsurvivors");

  Context host;
  std::vector<float> survivors(T * K);
  std::vector<float> dweights(T * K);
  const SurvivorWeightsArgs args{view(weights, shape), row_of_choice, 1.5F};
  survivor_weights(host, args, tensor_view(std::span(survivors), shape));
  survivor_weights_backward(host, args, view(dsurvivors, shape), tensor_view(std::span(dweights), shape));

  const SurvivorWeightsArgs gpu_args{on_gpu(weights, shape), on_gpu(row_of_choice, {T * K}), 1.5F};
  const TensorView gpu_survivors = ctx_.arena->allocate(shape);
  const TensorView gradient = on_gpu(dsurvivors, shape);
  survivor_weights(ctx_, gpu_args, gpu_survivors);
  survivor_weights_backward(ctx_, gpu_args, gradient, gradient);
  EXPECT_EQ(on_host<float>(gpu_survivors), survivors);
  const std::vector<float> actual = on_host<float>(gradient);
  for (std::size_t i = 0; i < actual.size(); ++i)
    EXPECT_NEAR(actual[i], dweights[i], 8e-7 * (1 + std::abs(dweights[i]))) << i;
}

TEST_F(GpuDispatchTest, RowsMoveWholeWhateverTheirWidth) {
  for (const std::int64_t width : {1, 2, 3, 8, 20}) {  // of 2-byte elements
    std::vector<std::uint16_t> from(static_cast<std::size_t>(100 * width));
    std::iota(from.begin(), from.end(), std::uint16_t{1});
    const std::vector<cuda::RowRun> runs{{0, 60, 40}, {41, 0, 1}, {50, 10, 50}};
    std::vector<std::uint16_t> expected(from.size(), 0);
    for (const cuda::RowRun& run : runs)
      std::copy_n(from.begin() + run.from * width, run.rows * width, expected.begin() + run.to * width);
    const Shape shape{100, 2 * width};
    const TensorView source = ctx_.arena->allocate(shape, DType::kUInt8);
    engine_->staging().upload(source.raw(), from.data(), from.size() * 2);
    const TensorView target = ctx_.arena->allocate(shape, DType::kUInt8);
    cuda::fill_with_zeros(engine_->stream(), target.raw(), from.size() * 2);
    cuda::move_rows(cuda::stream_of(ctx_), source.raw(), target.raw(),
                    cuda::upload_records<cuda::RowRun>(ctx_, runs), 3, 50, 2 * width);
    std::vector<std::uint16_t> actual(from.size());
    engine_->staging().download(actual.data(), target.raw(), actual.size() * 2);
    EXPECT_EQ(actual, expected) << width;
  }
}

TEST_F(GpuDispatchTest, RowsKnowTheirTokensAndBlocksOfRandomNumbers) {
  const std::vector<std::int32_t> choice_of_row{5, 0, -1, 3, 1};
  const std::vector<std::int64_t> offsets{0, 2, 2, 4, 5};  // of four local experts, one without rows
  const TensorView numbers = ctx_.arena->allocate({5, 1}, DType::kInt64);
  const TensorView blocks = ctx_.arena->allocate({5}, DType::kInt64);
  cuda::token_numbers(cuda::stream_of(ctx_), on_gpu(choice_of_row, {5}).data<std::int32_t>(), 100, 2,
                      numbers.data<std::int64_t>(), 5);
  cuda::first_dropout_blocks(cuda::stream_of(ctx_), numbers.data<std::int64_t>(),
                             on_gpu(offsets, {5}).data<std::int64_t>(), 4, /*first_expert=*/8, /*E=*/16,
                             /*blocks_a_row=*/3, blocks.data<std::int64_t>(), 5);
  EXPECT_EQ(on_host<std::int64_t>(numbers), (std::vector<std::int64_t>{102, 100, 0, 101, 100}));
  EXPECT_EQ(on_host<std::int64_t>(blocks),
            (std::vector<std::int64_t>{3 * (16 * 102 + 8), 3 * (16 * 100 + 8), 3 * 10, 3 * (16 * 101 + 10),
                                       3 * (16 * 100 + 11)}));
}

TEST_F(GpuDispatchTest, MegabytesPassThroughPinnedMemoryWhole) {
  std::vector<float> values(3'000'001);
  std::iota(values.begin(), values.end(), 0.0F);
  const TensorView tensor = on_gpu(values, {3'000'001});
  const std::vector<float> sent = values;
  std::ranges::fill(values, -1.0F);  // the upload has what it needs
  EXPECT_EQ(on_host<float>(tensor), sent);
}

}  // namespace
}  // namespace conclave::test
