// ranks: 1 2
// Tiny Mixtral, Qwen3-MoE and OLMoE models of Hugging Face transformers, read as checkpoint.init_from reads
// them: logits, loss, every gradient, the balance loss and twenty steps of AdamW are what PyTorch computed.
//
// The bounds are those that interoperability promises: 1e-4 of the largest for logits and each gradient, 1e-5
// for the loss, 1e-4 for the losses of twenty steps. fp32 sums of these sizes differ by about 1e-6.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "layers/model/language_model.h"
#include "tests/support/golden_models.h"
#include "tests/support/mpi_environment.h"
#include "tests/support/temporary_directory.h"
#include "trainer/interop/initial_weights.h"
#include "trainer/interop/tensor_names.h"
#include "trainer/routing_summary.h"
#include "trainer/train_step.h"
#include "trainer/trainer.h"

namespace conclave {
namespace {

using test::GoldenReference;
using test::world;

float largest(std::span<const float> values) {
  float result = 0;
  for (const float value : values) result = std::max(result, std::abs(value));
  return result;
}

// |actual - expected| <= share of the largest |expected|, for the elements from `first` on.
void expect_close(std::span<const float> actual, std::span<const float> expected, std::int64_t first,
                  double share, const std::string& what) {
  const double bound = share * largest(expected);
  const std::span<const float> wanted = expected.subspan(static_cast<std::size_t>(first), actual.size());
  double worst = 0;
  for (std::size_t i = 0; i < actual.size(); ++i)
    worst = std::max(worst, std::abs(static_cast<double>(actual[i]) - wanted[i]));
  EXPECT_LE(worst, bound) << what;
}

struct GoldenCase {
  std::string model;
  GoldenReference reference;
  test::TemporaryDirectory directory;
  config::Experiment experiment;

  GoldenCase(const std::string& name, int expert_parallel_size)
      : model(name),
        reference(name),
        experiment(golden_experiment(name, reference, directory.path() / "tokens.bin")) {
    experiment.mutable_parallel()->set_expert_parallel_size(expert_parallel_size);
  }
};

// A trainer with the golden weights.
struct Loaded {
  Trainer trainer;
  explicit Loaded(const config::Experiment& experiment) : trainer(experiment, world()) {
    EXPECT_NE(load_initial_weights(trainer), "");
  }
};

class GoldenModel : public testing::TestWithParam<const char*> {};

// Token by token through the caches, as `generate` does; ranks that share experts go side by side.
TEST_P(GoldenModel, Logits) {
  for (const int size : test::expert_parallel_sizes()) {
    const GoldenCase golden(GetParam(), size);
    Loaded loaded(golden.experiment);
    auto& model = dynamic_cast<LanguageModel&>(loaded.trainer.model);
    const std::vector<std::int32_t> tokens = golden.reference.tokens();
    const std::int64_t length = golden.reference.sequence_length();
    std::vector<float> logits;
    for (std::int64_t row = 0; row < golden.reference.sequences(); ++row) {
      std::vector<KvCache> caches = model.make_caches(length);
      for (std::int64_t position = 0; position < length; ++position) {
        const auto at = static_cast<std::size_t>(row * (length + 1) + position);
        Context ctx{.arena = &loaded.trainer.arena, .grid = &loaded.trainer.grid, .training = false};
        const TensorView next =
            model.next_token_logits(ctx, tensor_view(std::span(tokens).subspan(at, 1), {1}), caches);
        const std::span<const float> values = ConstTensorView(next).values<float>();
        logits.insert(logits.end(), values.begin(), values.end());
        loaded.trainer.arena.reset();
      }
    }
    expect_close(logits, golden.reference.floats("logits"), 0, 1e-4, "logits");
  }
}

// The part of each piece that this rank holds, in the names of the files.
void expect_gradients(const Trainer& trainer, const GoldenReference& reference, Architecture architecture) {
  const std::vector<TensorNames> names = tensor_names(trainer.experiment, architecture);
  std::int64_t compared = 0;
  for (Parameter* parameter : trainer.model.parameters()) {
    const auto tensor = std::ranges::find(names, parameter->name(), &TensorNames::name);
    ASSERT_NE(tensor, names.end()) << parameter->name();
    const Range rows = parameter->sharded().held_rows();
    const std::int64_t row_elements = parameter->global_shape().row_elements();
    const Range held{rows.begin * row_elements, rows.end * row_elements};
    const std::span<const float> gradient = ConstTensorView(parameter->gradient()).values<float>();
    for (const TensorPiece& piece : tensor->written()) {
      const Range shared{std::max(held.begin, piece.elements().begin),
                         std::min(held.end, piece.elements().end)};
      if (shared.size() <= 0) continue;
      expect_close(gradient.subspan(static_cast<std::size_t>(shared.begin - held.begin),
                                    static_cast<std::size_t>(shared.size())),
                   reference.floats("gradient/" + piece.name), shared.begin - piece.first_element, 1e-4,
                   piece.name);
      ++compared;
    }
  }
  EXPECT_GT(compared, 20);
}

TEST_P(GoldenModel, LossGradientsAndTwentySteps) {
  for (const int size : test::expert_parallel_sizes()) {
    const GoldenCase golden(GetParam(), size);
    Loaded loaded(golden.experiment);
    const std::vector<float> losses = golden.reference.floats("adamw_losses");
    ASSERT_EQ(static_cast<std::int64_t>(losses.size()), golden.experiment.train().steps());
    for (std::size_t step = 0; step < losses.size(); ++step) {
      const auto look = [&] {
        if (step == 0) expect_gradients(loaded.trainer, golden.reference, *architecture_of(golden.model));
      };
      const StepResult result = train_step(loaded.trainer, static_cast<std::int64_t>(step), look);
      EXPECT_FALSE(result.skipped);
      if (step == 0) {
        EXPECT_NEAR(result.loss, golden.reference.floats("loss")[0], 1e-5);
      }
      EXPECT_NEAR(result.loss, losses[step], 1e-4) << "step " << step;
    }
  }
}

// Theirs counts each of the K choices as a token, ours divides by K: theirs is K times ours.
TEST_P(GoldenModel, BalanceLossIsTheirsDividedByTopK) {
  GoldenCase golden(GetParam(), 1);
  golden.experiment.mutable_moe()->set_balance_loss(0.01);
  Loaded loaded(golden.experiment);
  train_step(loaded.trainer, 0);
  const RoutingSummary routing = take_routing_summary(loaded.trainer.model, world());
  const auto top_k = static_cast<double>(golden.experiment.moe().top_k());
  for (std::size_t layer = 0; layer < routing.layers.size(); ++layer) {
    const float theirs = golden.reference.floats(fmt::format("balance/{}", layer))[0];
    EXPECT_NEAR(top_k * routing.layers[layer].balance_loss_raw, theirs, 1e-5 * theirs)
        << "MoE layer " << layer;
  }
  EXPECT_FALSE(routing.layers.empty());
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenModel, testing::ValuesIn(test::kGoldenModels),
                         [](const auto& model) { return std::string(model.param); });

}  // namespace
}  // namespace conclave
