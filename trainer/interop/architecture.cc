#include "trainer/interop/architecture.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <set>
#include <vector>

#include "configs/moe_layers.h"
#include "configs/resolve.h"

namespace conclave {
namespace {

struct Names {
  Architecture architecture;
  std::string_view model_type;
  std::string_view class_name;
};

constexpr std::array<Names, 3> kNames{{{Architecture::kMixtral, "mixtral", "MixtralForCausalLM"},
                                       {Architecture::kQwen3Moe, "qwen3_moe", "Qwen3MoeForCausalLM"},
                                       {Architecture::kOlmoe, "olmoe", "OlmoeForCausalLM"}}};

const Names& names_of(Architecture architecture) {
  return *std::ranges::find(kNames, architecture, &Names::architecture);
}

using Reasons = std::vector<std::string>;

void check_task(const config::Experiment& experiment, Reasons& reasons) {
  if (!experiment.model().causal()) reasons.emplace_back("model.causal is false, those models are causal");
  if (experiment.train().objective() != config::Train::next_token)
    reasons.emplace_back("train.objective is masked, those models predict the next token");
}

void check_router(const config::Moe& moe, Reasons& reasons) {
  const std::string router(config::Moe::Router_Name(moe.router()));
  switch (moe.router()) {
    case config::Moe::softmax:
      return;
    case config::Moe::expert_choice:
      reasons.push_back(
          "moe.router is expert_choice: its experts choose tokens, up to a capacity that also "
          "limits evaluation; theirs drop nothing");
      return;
    case config::Moe::sigmoid:
      reasons.push_back("moe.router is sigmoid: scores are sigmoids with a bias, theirs a softmax");
      return;
    default:
      reasons.push_back(fmt::format("moe.router is {}, theirs is softmax", router));
  }
}

// What every layer's experts must be.
void check_moe(const config::Moe& moe, Reasons& reasons) {
  check_router(moe, reasons);
  if (moe.shared_experts() > 0)
    reasons.push_back(fmt::format("moe.shared_experts is {}, theirs have none", moe.shared_experts()));
  if (moe.activation() != config::swiglu)
    reasons.push_back(
        fmt::format("moe.activation is {}, theirs is swiglu", config::Activation_Name(moe.activation())));
  if (moe.routed_scale() != 1)
    reasons.push_back(
        fmt::format("moe.routed_scale is {}, their weights have no factor", moe.routed_scale()));
  if (moe.expert_groups() > 1 && moe.top_groups() < moe.expert_groups())
    reasons.push_back("moe.expert_groups limits the choice, theirs is among all experts");
  if (moe.force_balanced())
    reasons.emplace_back("moe.force_balanced is true: experts aren't chosen by the router");
}

// Layers may differ in what only training knows.
void check_layers_are_alike(const config::Experiment& experiment, Reasons& reasons) {
  std::set<std::string> shapes;
  for (std::int64_t block = 0; block < experiment.model().layers(); ++block) {
    if (!config::is_moe_layer(experiment, block)) continue;
    const config::Moe moe = config::moe_of_layer(experiment, block);
    shapes.insert(fmt::format("{}/{}/{}/{}/{}", moe.experts(), moe.top_k(), moe.d_ff(), moe.shared_experts(),
                              config::Moe::Router_Name(moe.router())));
  }
  if (shapes.size() > 1)
    reasons.emplace_back("moe.layers makes layers differ in experts, theirs are all alike");
}

Architecture nearest(const config::Model& model) {
  if (!model.qk_norm()) return Architecture::kMixtral;
  return model.qk_norm_over() == config::Model::head ? Architecture::kQwen3Moe : Architecture::kOlmoe;
}

void check_architecture(const config::Experiment& experiment, Architecture architecture, Reasons& reasons) {
  const config::Model& model = experiment.model();
  const config::Moe moe = exported_moe(experiment);
  const bool has_dense_blocks = moe.every() > 1;
  switch (architecture) {
    case Architecture::kMixtral:
      if (!moe.normalize_top_k())
        reasons.emplace_back(
            "moe.normalize_top_k is false without model.qk_norm: Mixtral normalises its "
            "weights, Qwen3-MoE and OLMoE, which needn't, have QK-norm");
      if (has_dense_blocks)
        reasons.push_back(
            fmt::format("moe.every is {} without model.qk_norm: Mixtral has experts in every "
                        "block, only Qwen3-MoE, with QK-norm, has dense ones between",
                        moe.every()));
      break;
    case Architecture::kQwen3Moe:
      if (has_dense_blocks && model.activation() != config::swiglu)
        reasons.push_back(fmt::format("model.activation is {}, theirs is swiglu",
                                      config::Activation_Name(model.activation())));
      break;
    case Architecture::kOlmoe:
      if (has_dense_blocks)
        reasons.push_back(
            fmt::format("moe.every is {} with model.qk_norm_over: width: OLMoE has experts in "
                        "every block",
                        moe.every()));
      if (model.heads() * model.head_dim() != model.d_model())
        reasons.push_back(
            fmt::format("model.heads x model.head_dim is {} x {}, with model.qk_norm_over: width "
                        "(OLMoE) it has to be model.d_model, {}",
                        model.heads(), model.head_dim(), model.d_model()));
      break;
  }
}

}  // namespace

std::string_view model_type(Architecture architecture) { return names_of(architecture).model_type; }

std::string_view class_name(Architecture architecture) { return names_of(architecture).class_name; }

std::optional<Architecture> architecture_of(std::string_view model_type) {
  const auto found = std::ranges::find(kNames, model_type, &Names::model_type);
  if (found == kNames.end()) return std::nullopt;
  return found->architecture;
}

std::string known_model_types() {
  std::vector<std::string_view> types;
  for (const Names& names : kNames) types.push_back(names.model_type);
  return fmt::format("{}", fmt::join(types, ", "));
}

ExportFit export_fit(const config::Experiment& experiment) {
  if (experiment.model().kind() != config::Model::language)
    return {{}, "model.kind is mixture_regression, which is no language model"};
  if (experiment.moe().experts() == 0)
    return {{}, "moe.experts is 0: a dense model, and those it could be have experts"};
  const Architecture architecture = nearest(experiment.model());
  Reasons reasons;
  check_task(experiment, reasons);
  check_moe(exported_moe(experiment), reasons);
  if (reasons.empty()) check_layers_are_alike(experiment, reasons);
  check_architecture(experiment, architecture, reasons);
  if (reasons.empty()) return {architecture, ""};
  return {{}, fmt::format("{}", fmt::join(reasons, "; "))};
}

config::Moe exported_moe(const config::Experiment& experiment) {
  return config::moe_of_layer(experiment, experiment.moe().every() - 1);
}

std::string describe(const ExportFit& fit) {
  if (fit.architecture) return fmt::format("exports as {}", model_type(*fit.architecture));
  return "doesn't export to Hugging Face: " + fit.reason;
}

}  // namespace conclave
