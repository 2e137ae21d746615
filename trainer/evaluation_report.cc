#include "trainer/evaluation_report.h"

#include <fmt/format.h>

#include <numbers>
#include <optional>
#include <vector>

#include "configs/resolve.h"
#include "trainer/metrics/specialisation.h"
#include "trainer/metrics/table.h"

namespace conclave {

double bits_per_byte(double loss) { return loss / std::numbers::ln2; }

bool tokens_are_bytes(const config::Experiment& experiment) {
  return experiment.data().tokenizer() == config::Data::bytes && !is_regression(experiment);
}

std::string future_leak_marker(const config::Experiment& experiment) {
  return config::leaks_future(experiment) ? "future leak" : "";
}

bool is_regression(const config::Experiment& experiment) {
  return experiment.model().kind() == config::Model::mixture_regression;
}

bool predicts_masked(const config::Experiment& experiment) {
  return experiment.train().objective() == config::Train::masked;
}

namespace {

std::string regression_table(const Evaluation& evaluation) {
  std::vector<std::vector<std::string>> rows;
  const auto add_row = [&](const HeldOutSource& source) {
    rows.push_back({source.name, format_count(source.targets), fmt::format("{:.4f}", source.loss()),
                    fmt::format("{:.5f}", source.mean_squared_error()),
                    fmt::format("{:.5f}", source.best_mean_squared_error())});
  };
  for (const HeldOutSource& source : evaluation.sources) add_row(source);
  if (evaluation.sources.size() > 1) add_row(evaluation.total());
  return format_table({"held-out region", "samples", "loss", "squared error", "of the likeliest expert"},
                      rows);
}

}  // namespace

std::string held_out_table(const Evaluation& evaluation, const config::Experiment& experiment) {
  if (is_regression(experiment)) return regression_table(evaluation);
  const bool bytes = tokens_are_bytes(experiment);
  const std::string masked = predicts_masked(experiment) ? "masked " : "";
  std::vector<std::string> header = {"held-out text", masked + (bytes ? "bytes" : "tokens"), "loss"};
  if (bytes) header.push_back("bits per " + masked + "byte");
  const bool labelled = evaluation.router_accuracy().has_value();
  if (labelled) header.push_back("router accuracy");

  std::vector<std::vector<std::string>> rows;
  const auto add_row = [&](const std::string& name, std::int64_t targets, double loss,
                           const std::optional<double>& router_accuracy) {
    rows.push_back({name, format_count(targets), fmt::format("{:.4f}", loss)});
    if (bytes) rows.back().push_back(fmt::format("{:.3f}", bits_per_byte(loss)));
    if (labelled)
      rows.back().push_back(router_accuracy ? fmt::format("{:.1f}%", 100 * *router_accuracy) : "-");
  };
  for (const HeldOutSource& source : evaluation.sources) {
    add_row(source.name, source.targets, source.loss(), source.router_accuracy());
  }
  if (evaluation.sources.size() > 1)
    add_row("all", evaluation.total().targets, evaluation.loss(), evaluation.router_accuracy());
  return format_table(header, rows);
}

std::string expert_tables(const Evaluation& evaluation, const Model& model) {
  if (model.moe_layers().empty() || evaluation.sources.empty()) return "";
  std::vector<std::int64_t> blocks;
  for (const auto& [block, layer] : model.moe_layers()) blocks.push_back(block);
  std::vector<std::string> names;
  LoadsBySource loads;
  for (const HeldOutSource& source : evaluation.sources) {
    names.push_back(source.name);
    loads.push_back(source.expert_loads);
  }
  return experts_by_source_table(names, blocks, loads);
}

}  // namespace conclave
