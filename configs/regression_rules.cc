#include "configs/rules.h"

#include <fmt/format.h>

#include <cstdint>
#include <set>
#include <string>

namespace conclave::config {
namespace {

void check_region(const Regression& data, int index, std::vector<Violation>& broken) {
  const Region& region = data.regions(index);
  const std::string path = fmt::format("data.regression.regions.{}", index);
  const auto check = [&](const char* key, std::int64_t found, std::int64_t needed, const char* of_what) {
    if (found == needed) return;
    broken.push_back(
        {{fmt::format("{}.{}", path, key), "data.regression.inputs", "data.regression.outputs"},
         fmt::format("{}.{}: found {} numbers; valid: {}, {}", path, key, found, needed, of_what)});
  };
  check("center", region.center_size(), data.inputs(), "one for each of data.regression.inputs");
  if (!data.path().empty()) return;
  check("slope", region.slope_size(), data.inputs() * data.outputs(),
        "data.regression.outputs x data.regression.inputs");
  check("offset", region.offset_size(), data.outputs(), "one for each of data.regression.outputs");
}

// The mixture of 1991 is one flat layer; what would change a transformer's MoE layers changes nothing here.
void check_unused_moe_keys(const Moe& moe, std::vector<Violation>& broken) {
  const auto refuse_if = [&](bool is_set, const char* key, const char* valid) {
    if (!is_set) return;
    broken.push_back(
        {{key, "model.kind"},
         fmt::format("{}: has no meaning for model.kind: mixture_regression, one layer of experts "
                     "and a gate; valid: {}",
                     key, valid)});
  };
  refuse_if(moe.layers_size() > 0, "moe.layers", "no moe.layers");
  refuse_if(moe.expert_groups() > 1, "moe.expert_groups", "1");
  refuse_if(moe.shared_experts() > 0, "moe.shared_experts", "0");
  refuse_if(moe.force_balanced(), "moe.force_balanced", "false");
}

}  // namespace

void check_regression(const Experiment& experiment, std::vector<Violation>& broken) {
  const Regression& data = experiment.data().regression();
  if (experiment.model().kind() != Model::mixture_regression) {
    if (data.path().empty() && data.regions_size() == 0) return;
    broken.push_back({{"data.regression", "model.kind"},
                      "data.regression: is for model.kind: mixture_regression only; valid: "
                      "model.kind=mixture_regression, or no data.regression"});
    return;
  }
  if (!experiment.log().routing().empty()) {
    broken.push_back(
        {{"log.routing", "model.kind"},
         "log.routing: records the experts of tokens, and model.kind: mixture_regression has none; "
         "valid: no log.routing"});
  }
  if (experiment.data().train_size() > 0) {
    broken.push_back(
        {{"data.train", "model.kind"},
         "data.train: holds texts, and model.kind: mixture_regression learns from rows of numbers; "
         "valid: data.regression in its place"});
  }
  if (experiment.moe().experts() == 0) {
    broken.push_back(
        {{"moe.experts", "model.kind"},
         "moe.experts: 0 leaves model.kind: mixture_regression nothing that answers; valid: 1 or "
         "more"});
  }
  if (experiment.moe().router() != Moe::dense) {
    broken.push_back(
        {{"moe.router", "model.kind"},
         fmt::format("moe.router: {} does not fit model.kind: mixture_regression, in which every "
                     "expert answers; valid: dense",
                     Moe::Router_Name(experiment.moe().router()))});
  }
  check_unused_moe_keys(experiment.moe(), broken);
  if (experiment.parallel().exchange_chunks() > 1) {
    broken.push_back({{"parallel.exchange_chunks", "model.kind"},
                      fmt::format("parallel.exchange_chunks: {} chunks are for MoE layers, and model.kind: "
                                  "mixture_regression has none; valid: 1",
                                  experiment.parallel().exchange_chunks())});
  }
  if (data.path().empty() && data.regions_size() == 0) {
    broken.push_back(
        {{"data.regression"},
         "data.regression: neither a file nor regions; valid: a path, or regions to make samples "
         "up from"});
  }
  std::set<std::string> names;
  for (int index = 0; index < data.regions_size(); ++index) {
    check_region(data, index, broken);
    const std::string& name = data.regions(index).name();
    if (!name.empty() && names.insert(name).second) continue;
    const std::string path = fmt::format("data.regression.regions.{}.name", index);
    broken.push_back({{path}, fmt::format("{}: \"{}\"; valid: a name of its own", path, name)});
  }
}

}  // namespace conclave::config
