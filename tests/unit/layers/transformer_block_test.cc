// One block, dense or MoE, against the reference: forward, the gradient of its input, all parameters.
#include "layers/model/transformer_block.h"

#include <gtest/gtest.h>

#include "comm/self/self_communicator.h"
#include "tests/support/model_gradients.h"
#include "tests/support/operator_test.h"

namespace conclave::test {
namespace {

using Complex = std::complex<double>;

constexpr std::int64_t kSequences = 2;
constexpr std::int64_t S = 5;
constexpr std::int64_t D = 6;

config::Experiment experiment() {
  config::Experiment experiment;
  config::Model& model = *experiment.mutable_model();
  model.set_layers(2);
  model.set_d_model(D);
  model.set_heads(4);
  model.set_kv_heads(2);
  model.set_head_dim(4);
  model.set_max_seq(S);
  model.set_rope_theta(50);
  model.set_qk_norm(true);
  model.set_d_ff(7);
  model.set_init_std(0.4);
  config::Moe& moe = *experiment.mutable_moe();
  moe.set_experts(3);
  moe.set_top_k(2);
  moe.set_d_ff(5);
  moe.set_every(2);  // block 0 is dense, block 1 is not
  moe.set_capacity_factor(0);
  moe.set_balance_loss(0.5);
  moe.set_balance_scope(config::Moe::sequence);
  moe.set_z_loss(0.25);
  config::resolve(experiment);
  return experiment;
}

struct BlockCase {
  config::Experiment setting;
  std::int64_t layer;
  std::unique_ptr<Communicator> alone = make_self_communicator();
  ProcessGrid grid{*alone, 1};
  LocalContext ctx;
  TransformerBlock block;
  std::vector<Parameter*> parameters;
  std::vector<float> x = random_values(kSequences * S * D, "x");
  std::vector<float> dy = random_values(kSequences * S * D, "dy");
  ReferenceBatch batch{kSequences, S, kSequences + 1};

  BlockCase(const config::Experiment& experiment, std::int64_t index)
      : setting(experiment), layer(index), block(setting, layer, grid) {
    ctx.grid = &grid;
    ctx.batch.sequences = batch.sequences;
    ctx.batch.sequence_length = batch.sequence_length;
    ctx.batch.global_sequences = batch.global_sequences;
    block.collect_parameters(parameters);
    spread_norms(parameters);
  }

  // The parameters and, as one more, the input.
  NamedTensors<double> inputs() const {
    NamedTensors<double> values = values_of(parameters);
    values["x"].assign(x.begin(), x.end());
    return values;
  }
  template <class T>
  ReferenceBlock<T> reference(const NamedTensors<T>& at) const {
    return reference_block(setting, layer, at, batch, at.at("x"));
  }
};

class TransformerBlockTest : public testing::TestWithParam<const char*> {
 protected:
  static BlockCase make_case() {
    config::Experiment setting = experiment();
    const std::string variant = GetParam();
    if (variant == "plain_attention") setting.mutable_model()->set_qk_norm(false);
    if (variant == "shared") setting.mutable_moe()->set_shared_experts(1);
    if (variant == "top1") {
      setting.mutable_moe()->set_top_k(1);
      setting.mutable_moe()->set_normalize_top_k(false);
    }
    return BlockCase(setting, variant == "dense" ? 0 : 1);
  }
};

TEST_P(TransformerBlockTest, MatchesTheReferenceBothWays) {
  BlockCase c = make_case();
  EXPECT_EQ(c.block.moe() != nullptr, c.layer == 1);
  for (Parameter* parameter : c.parameters) std::ranges::fill(parameter->gradient().values<float>(), 0.0F);

  const TensorView y = c.block.forward(c.ctx, view(c.x, {kSequences * S, D}));
  const auto exact = c.reference(c.inputs());
  ASSERT_GT(exact.smallest_gap, 1e-4) << "rounding might change a choice: take another seed";
  const auto moved = c.reference(perturbed(c.inputs()));
  constexpr double kLongestSum = 16;  // heads * head_dim
  const double sensitivity = distance(std::span<const double>(moved.y), exact.y);
  EXPECT_LE(distance(std::span<const float>(y.values<float>()), exact.y),
            (kLongestSum + 16) * (sensitivity + kUnit * norm_of(exact.y)));

  const TensorView dx = c.block.backward(c.ctx, view(c.dy, {kSequences * S, D}));
  const auto loss = [&](const NamedTensors<Complex>& at) {
    const ReferenceBlock<Complex> result = c.reference(at);
    return weighted_sum(result.y, c.dy) + result.balance_terms;
  };
  const ExpectedGradients expected(loss, c.inputs(), kLongestSum);
  expected.expect_match(dx.values<float>(), "x");
  for (const Parameter* parameter : c.parameters) {
    expected.expect_match(parameter->gradient().values<float>(), parameter->name());
  }
  EXPECT_EQ(expected.values.size(), c.parameters.size() + 1);
}

// Kept apart from the gradients: what a second backward adds is the same again.
TEST_P(TransformerBlockTest, ParameterGradientsAddUp) {
  BlockCase c = make_case();
  c.block.forward(c.ctx, view(c.x, {kSequences * S, D}));
  c.block.backward(c.ctx, view(c.dy, {kSequences * S, D}));
  std::vector<std::vector<float>> once;
  for (const Parameter* parameter : c.parameters) once.push_back(copy_of(parameter->gradient()));
  c.ctx.memory.reset();
  c.block.forward(c.ctx, view(c.x, {kSequences * S, D}));
  c.block.backward(c.ctx, view(c.dy, {kSequences * S, D}));
  for (std::size_t p = 0; p < once.size(); ++p) {
    NamedTensors<double> doubled;
    for (const float value : once[p]) doubled["g"].push_back(2.0 * value);
    // One more addition to each of the sums of T * K terms.
    EXPECT_LE(distance(std::span<const float>(c.parameters[p]->gradient().values<float>()), doubled.at("g")),
              2 * kSequences * S * kUnit * norm_of(doubled.at("g")) * 2)
        << c.parameters[p]->name();
  }
}

TEST_P(TransformerBlockTest, NoTokens) {
  BlockCase c = make_case();
  c.ctx.batch.sequences = 0;
  const std::vector<float> none;
  EXPECT_EQ(c.block.forward(c.ctx, view(none, {0, D})).shape(), (Shape{0, D}));
  EXPECT_EQ(c.block.backward(c.ctx, view(none, {0, D})).shape(), (Shape{0, D}));
  for (const Parameter* parameter : c.parameters) {
    for (const float value : parameter->gradient().values<float>()) EXPECT_EQ(value, 0.0F);
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, TransformerBlockTest,
                         testing::Values("dense", "moe", "plain_attention", "shared", "top1"),
                         [](const auto& variant) { return std::string(variant.param); });

}  // namespace
}  // namespace conclave::test
