// The whole model against the reference: loss, every gradient, gradient accumulation, cached decoding.
#include "layers/model/language_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "comm/self/self_communicator.h"
#include "tests/support/model_gradients.h"
#include "tests/support/operator_test.h"

namespace conclave::test {
namespace {

using Complex = std::complex<double>;

constexpr std::int64_t kSequences = 3;
constexpr std::int64_t S = 4;
constexpr std::int64_t V = 9;
constexpr double kLongestSum = kSequences * S * 2;  // a weight's gradient: tokens, each with two choices

config::Experiment experiment() {
  config::Experiment experiment;
  config::Model& model = *experiment.mutable_model();
  model.set_layers(2);
  model.set_d_model(6);
  model.set_heads(4);
  model.set_kv_heads(2);
  model.set_head_dim(2);
  model.set_max_seq(24);
  model.set_rope_theta(50);
  model.set_qk_norm(true);
  model.set_d_ff(5);
  model.set_vocab_size(V);
  model.set_init_std(0.4);
  config::Moe& moe = *experiment.mutable_moe();
  moe.set_experts(3);
  moe.set_top_k(2);
  moe.set_d_ff(4);
  moe.set_capacity_factor(0);
  moe.set_balance_loss(0.5);
  moe.set_balance_scope(config::Moe::sequence);
  moe.set_z_loss(0.25);
  config::resolve(experiment);
  return experiment;
}

config::Experiment variant(const std::string& name) {
  config::Experiment setting = experiment();
  if (name == "untied") setting.mutable_model()->set_tie_embeddings(false);
  if (name == "every_second") setting.mutable_moe()->set_every(2);
  if (name == "bidirectional") setting.mutable_model()->set_causal(false);
  if (name == "dense") setting.mutable_moe()->set_experts(0);
  if (name == "untied_shared_top1") {
    setting.mutable_model()->set_tie_embeddings(false);
    setting.mutable_moe()->set_shared_experts(2);
    setting.mutable_moe()->set_top_k(1);
    setting.mutable_moe()->set_normalize_top_k(false);
  }
  if (name == "gateless") {
    setting.mutable_model()->set_activation(config::gelu);
    setting.mutable_moe()->set_activation(config::gelu);
    setting.mutable_moe()->set_every(2);
    setting.mutable_moe()->set_shared_experts(1);
    setting.mutable_moe()->set_shared_gate(true);
  }
  return setting;
}

struct ModelCase {
  config::Experiment setting;
  std::unique_ptr<Communicator> alone = make_self_communicator();
  ProcessGrid grid{*alone, 1};
  LocalContext ctx;
  LanguageModel model;
  std::vector<std::int32_t> tokens = random_tokens(kSequences * S, "tokens", V);
  std::vector<std::int32_t> targets = random_tokens(kSequences * S, "targets", V);

  explicit ModelCase(const config::Experiment& experiment) : setting(experiment), model(setting, grid) {
    ctx.grid = &grid;
    ctx.batch.sequence_length = S;
    ctx.batch.global_sequences = kSequences;
    targets[5] = LinearCrossEntropyArgs::kIgnore;
    spread_norms(model.parameters());
  }

  ConstTensorView sequences(const std::vector<std::int32_t>& ids, Range range) const {
    return view(ids, {kSequences * S}).rows(range.begin * S, range.end * S);
  }

  // Forward and backward of micro-batches of these many sequences. Returns the sum of the losses.
  double run(const std::vector<std::int64_t>& micro_batches) {
    for (Parameter* parameter : model.parameters()) parameter->zero_gradient();
    double loss_sum = 0;
    std::int64_t begin = 0;
    ctx.batch.micro_step = 0;
    ctx.batch.micro_steps = static_cast<std::int64_t>(micro_batches.size());
    for (const std::int64_t count : micro_batches) {
      const Range range{begin, begin + count};
      ctx.batch.sequences = count;
      loss_sum += model.forward(ctx, sequences(tokens, range), sequences(targets, range)).loss_sum;
      model.backward(ctx);
      ctx.memory.reset();
      ++ctx.batch.micro_step;
      begin = range.end;
    }
    return loss_sum;
  }

  template <class T>
  ReferenceModel<T> reference(const NamedTensors<T>& at) const {
    return reference_language_model(setting, at, {kSequences, S, kSequences}, tokens, targets);
  }
  ExpectedGradients expected_gradients() const {
    return {[&](const NamedTensors<Complex>& at) { return reference(at).training_loss; },
            values_of(model.parameters()), kLongestSum};
  }
};

class LanguageModelTest : public testing::TestWithParam<const char*> {};

TEST_P(LanguageModelTest, LossAndEveryGradientMatchTheReference) {
  ModelCase c(variant(GetParam()));
  const auto exact = c.reference(values_of(c.model.parameters()));
  ASSERT_GT(exact.smallest_gap, 1e-4) << "rounding might change a choice: take another seed";
  const auto moved = c.reference(perturbed(values_of(c.model.parameters())));
  const ExpectedGradients expected = c.expected_gradients();
  EXPECT_EQ(expected.values.size(), c.model.parameters().size());

  // The same gradients, however the step is cut.
  for (const auto& micro_batches : {std::vector<std::int64_t>{3}, {2, 0, 1}, {1, 1, 1}, {0, 1, 2}}) {
    SCOPED_TRACE(testing::Message() << micro_batches.size() << " micro-batches");
    const double loss_sum = c.run(micro_batches);
    double exact_sum = 0;
    double sensitivity = 0;
    for (std::size_t t = 0; t < exact.losses.size(); ++t) {
      exact_sum += exact.losses[t];
      sensitivity += std::abs(moved.losses[t] - exact.losses[t]);
    }
    EXPECT_NEAR(loss_sum, exact_sum, (kLongestSum + 16) * (sensitivity + kUnit * exact_sum));
    for (const Parameter* parameter : c.model.parameters()) {
      expected.expect_match(parameter->gradient().values<float>(), parameter->name());
    }
  }
}

// The terms as the trainer reports them, summed over micro-batches: what is in the gradients.
TEST_P(LanguageModelTest, ReportsTheBalanceTermsThatAreDifferentiated) {
  ModelCase c(variant(GetParam()));
  const double loss_sum = c.run({2, 0, 1});
  double terms = 0;
  for (const auto& [block, layer] : c.model.moe_layers()) {
    terms += c.setting.moe().balance_loss() * layer->statistics().balance_loss_raw +
             c.setting.moe().z_loss() * layer->statistics().z_loss_raw;
  }
  const auto values = values_of(c.model.parameters());
  const double exact = c.reference(values).training_loss;
  const double sensitivity = std::abs(c.reference(perturbed(values)).training_loss - exact) + kUnit * exact;
  // One sample of the change may happen to be small: the sum of its parts is not.
  EXPECT_NEAR(loss_sum / (kSequences * S) + terms, exact, (kLongestSum + 16) * sensitivity * 4);
}

TEST_P(LanguageModelTest, EvaluationComputesTheSameLossAndNoGradient) {
  ModelCase c(variant(GetParam()));
  const double trained = c.run({3});
  for (Parameter* parameter : c.model.parameters()) parameter->zero_gradient();
  c.ctx.training = false;
  c.ctx.batch.sequences = kSequences;
  const auto evaluated =
      c.model.forward(c.ctx, c.sequences(c.tokens, {0, 3}), c.sequences(c.targets, {0, 3}));
  EXPECT_EQ(evaluated.loss_sum, trained);
  EXPECT_EQ(evaluated.targets, kSequences * S - 1);
  for (const Parameter* parameter : c.model.parameters()) {
    for (const float value : parameter->gradient().values<float>()) EXPECT_EQ(value, 0.0F);
  }
}

// Logits of each position of one sequence, its tokens handed over in pieces, against the full forward.
TEST_P(LanguageModelTest, CachedDecodingInPiecesEqualsTheFullForward) {
  if (!variant(GetParam()).model().causal()) return;  // a past that changes can't be cached
  constexpr std::int64_t kLength = 20;
  ModelCase c(variant(GetParam()));
  const std::vector<std::int32_t> tokens = random_tokens(kLength, "decoded", V);
  const std::vector<std::int32_t> targets = random_tokens(kLength, "next", V);
  const ReferenceBatch batch{1, kLength, 1};
  const auto values = values_of(c.model.parameters());
  const auto exact = reference_language_model(c.setting, values, batch, tokens, targets);
  ASSERT_GT(exact.smallest_gap, 1e-4) << "rounding might change a choice: take another seed";
  const auto moved = reference_language_model(c.setting, perturbed(values), batch, tokens, targets);
  const double tolerance = (kLength + 16) * (distance(std::span<const double>(moved.logits), exact.logits) +
                                             kUnit * norm_of(exact.logits));

  c.ctx.training = false;
  double loss_sum = 0;
  for (const std::vector<std::int64_t>& pieces :
       {std::vector<std::int64_t>(kLength, 1), {kLength}, {7, 1, 1, 9, 2}}) {
    std::vector<KvCache> caches = c.model.make_caches(kLength);
    std::int64_t begin = 0;
    for (const std::int64_t count : pieces) {
      const std::int64_t end = begin + count;
      const TensorView logits =
          c.model.next_token_logits(c.ctx, view(tokens, {kLength}).rows(begin, end), caches);
      const auto expected = std::span(exact.logits).subspan(static_cast<std::size_t>((end - 1) * V), V);
      EXPECT_LE(distance(std::span<const float>(logits.values<float>()), expected), tolerance)
          << "position " << end - 1 << " of " << pieces.size() << " pieces";
      if (pieces.size() == kLength) {
        const auto target = static_cast<std::size_t>(targets[static_cast<std::size_t>(begin)]);
        double sum = 0;
        for (const float logit : logits.values<float>()) sum += std::exp(static_cast<double>(logit));
        loss_sum += std::log(sum) - logits.values<float>()[target];
      }
      c.ctx.memory.reset();
      begin = end;
    }
  }
  c.ctx.batch.sequences = 1;
  c.ctx.batch.sequence_length = kLength;
  const auto whole = c.model.forward(c.ctx, view(tokens, {kLength}), view(targets, {kLength}));
  EXPECT_NEAR(loss_sum, whole.loss_sum, 2 * std::sqrt(kLength) * 2 * tolerance);  // |dloss| <= 2 max |dlogit|
}

INSTANTIATE_TEST_SUITE_P(Variants, LanguageModelTest,
                         testing::Values("moe", "untied", "every_second", "dense", "untied_shared_top1",
                                         "bidirectional", "gateless"),
                         [](const auto& variant) { return std::string(variant.param); });

// Who adds up gradients while backward goes on relies on it: what is said to be complete doesn't change any
// more, and nothing is said twice.
class KeepsAnnounced final : public GradientListener {
 public:
  void gradients_complete(std::span<Parameter* const> parameters) override {
    for (const Parameter* parameter : parameters) {
      const auto gradient = parameter->gradient().values<float>();
      EXPECT_TRUE(announced.emplace(parameter, std::vector<float>(gradient.begin(), gradient.end())).second)
          << parameter->name() << " is announced again";
    }
  }
  std::map<const Parameter*, std::vector<float>> announced;
};

TEST_P(LanguageModelTest, GradientsThatAreAnnouncedStayAsTheyAre) {
  ModelCase c(variant(GetParam()));
  KeepsAnnounced listener;
  c.ctx.gradient_listener = &listener;
  c.run({3});
  for (const auto& [parameter, gradient] : listener.announced) {
    EXPECT_TRUE(std::ranges::equal(parameter->gradient().values<float>(), gradient)) << parameter->name();
  }
  // All but the embedding, whose gradient is the last.
  EXPECT_EQ(listener.announced.size(), c.model.parameters().size() - 1);
  EXPECT_FALSE(listener.announced.contains(c.model.parameters().front()));
}

TEST(LanguageModel, EveryParameterHasItsOwnNameAndDecay) {
  config::Experiment setting = variant("untied");
  setting.mutable_optim()->set_decay_embeddings(false);
  const ModelCase c(setting);
  std::map<std::string, bool> decays;
  for (const Parameter* parameter : c.model.parameters()) decays[parameter->name()] = parameter->decays;
  EXPECT_EQ(decays.size(), c.model.parameters().size());
  for (const auto& [name, decay] : decays) {
    const bool is_exempt =
        name.find("norm") != std::string::npos || name == "embedding.weight" || name == "head.weight";
    EXPECT_EQ(decay, !is_exempt) << name;
  }
}

TEST(LanguageModel, AMicroBatchWithoutSequences) {
  ModelCase c(variant("moe"));
  EXPECT_EQ(c.run({0}), 0.0);
  for (const Parameter* parameter : c.model.parameters()) {
    for (const float value : parameter->gradient().values<float>()) EXPECT_EQ(value, 0.0F);
  }
}

}  // namespace
}  // namespace conclave::test
