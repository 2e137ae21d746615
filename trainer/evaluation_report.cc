#include "trainer/evaluation_report.h"

#include <fmt/format.h>

#include <numbers>
#include <optional>
#include <vector>

#include "trainer/metrics/specialisation.h"
#include "trainer/metrics/table.h"

namespace conclave {

double bits_per_byte(double loss) { return loss / std::numbers::ln2; }

bool tokens_are_bytes(const config::Experiment& experiment) {
  return experiment.data().tokenizer() == config::Data::bytes;
}

std::string held_out_table(const Evaluation& evaluation, const config::Experiment& experiment) {
  const bool bytes = tokens_are_bytes(experiment);
  std::vector<std::string> header = {"held-out text", bytes ? "bytes" : "tokens", "loss"};
  if (bytes) header.push_back("bits per byte");
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
  std::int64_t targets = 0;
  for (const HeldOutSource& source : evaluation.sources) {
    add_row(source.name, source.targets, source.loss(), source.router_accuracy());
    targets += source.targets;
  }
  if (evaluation.sources.size() > 1) add_row("all", targets, evaluation.loss(), evaluation.router_accuracy());
  return format_table(header, rows);
}

std::string expert_tables(const Evaluation& evaluation, const LanguageModel& model) {
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
