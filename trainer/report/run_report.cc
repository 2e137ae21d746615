#include "trainer/report/run_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

#include "comm/base/error.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/html/assets.h"
#include "trainer/metrics/table.h"

namespace conclave {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxPoints = 1000;
constexpr std::size_t kMaxLoadColumns = 240;
constexpr std::array kDrawnFields = {
    "loss",           "lr",           "grad_norm",        "tokens_per_second",
    "load_imbalance", "load_entropy", "dropped_fraction", "exchange_fraction",
    "imbalance_tax",  "dead_experts", "router_entropy"};

struct Records {
  std::vector<json> steps;
  std::vector<json> evaluations;
};

Records read_records(const std::filesystem::path& path) {
  std::ifstream file(path);
  CONCLAVE_CHECK(file.good(), "{}: there is no record of a run (`conclave train` writes it)", path.string());
  Records records;
  for (std::string line; std::getline(file, line);) {
    json record = json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!record.is_object() || !record.contains("step") || !record["step"].is_number_integer()) continue;
    const std::string type = record.value("type", "");
    if (type == "step")
      records.steps.push_back(std::move(record));
    else if (type == "evaluation")
      records.evaluations.push_back(std::move(record));
  }
  CONCLAVE_CHECK(!records.steps.empty() || !records.evaluations.empty(), "{} has no record of a step yet",
                 path.string());
  return records;
}

// The number under `key`; null if there is none.
json number(const json& record, const char* key) {
  const auto found = record.find(key);
  return found != record.end() && found->is_number() ? *found : json();
}

// Record i of `count` belongs to group group_of(i) of `groups`.
std::size_t group_of(std::size_t i, std::size_t count, std::size_t groups) { return i * groups / count; }

// The shares that a record has of its time; an empty object if it has none.
json time_of(const json& record) {
  return record.is_object() ? record.value("time", json::object()) : json::object();
}

// One value a group: the mean of those that value_of(record) gives, null where it gives none.
template <class ValueOf>
json means_of_groups(const std::vector<json>& records, std::size_t groups, const ValueOf& value_of) {
  std::vector<double> sums(groups, 0.0);
  std::vector<int> counts(groups, 0);
  for (std::size_t i = 0; i < records.size(); ++i) {
    const json value = value_of(records[i]);
    if (value.is_null()) continue;
    const std::size_t group = group_of(i, records.size(), groups);
    sums[group] += value.template get<double>();
    ++counts[group];
  }
  json means = json::array();
  for (std::size_t group = 0; group < groups; ++group)
    means.push_back(counts[group] > 0 ? json(sums[group] / counts[group]) : json());
  return means;
}

// Means over groups of neighbouring records, under the step of each group's last.
json drawn_steps(const std::vector<json>& steps) {
  const std::size_t groups = std::min(steps.size(), kMaxPoints);
  json drawn{{"step", json::array()}};
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const std::size_t group = group_of(i, steps.size(), groups);
    drawn["step"][group] = steps[i]["step"];
  }
  for (const char* field : kDrawnFields)
    drawn[field] = means_of_groups(steps, groups, [&](const json& record) { return number(record, field); });
  // What the time of the steps went into, by part.
  drawn["time"] = json::object();
  const json parts = time_of(steps.empty() ? json() : steps.back());
  for (const auto& [part, share] : parts.items()) {
    drawn["time"][part] = means_of_groups(steps, groups, [&, &name = part](const json& record) {
      return number(time_of(record), name.c_str());
    });
  }
  return drawn;
}

json drawn_evaluations(const std::vector<json>& evaluations) {
  json drawn{{"step", json::array()}, {"loss", json::array()}, {"sources", json::array()}};
  std::vector<std::string> names;
  for (const json& evaluation : evaluations) {
    drawn["step"].push_back(evaluation["step"]);
    drawn["loss"].push_back(number(evaluation, "eval_loss"));
    const json by_source = evaluation.value("eval_loss_by_source", json::object());
    for (const auto& [name, loss] : by_source.items()) {
      if (std::ranges::find(names, name) == names.end()) names.push_back(name);
    }
  }
  for (const std::string& name : names) {
    json losses = json::array();
    for (const json& evaluation : evaluations)
      losses.push_back(number(evaluation.value("eval_loss_by_source", json::object()), name.c_str()));
    drawn["sources"].push_back({{"name", name}, {"loss", losses}});
  }
  return drawn;
}

using Loads = std::vector<std::vector<std::int64_t>>;  // [layers][E]

// The loads of a record; empty if it has none.
Loads loads_of(const json& record) {
  const auto found = record.find("expert_load");
  if (found == record.end()) return {};
  try {
    return found->get<Loads>();
  } catch (const json::exception&) {
    return {};
  }
}

bool same_sizes(const Loads& a, const Loads& b) {
  return std::ranges::equal(a, b, [](const auto& x, const auto& y) { return x.size() == y.size(); });
}

// [layers][columns][E]: sums over groups of neighbouring records.
json drawn_load(const std::vector<json>& steps) {
  std::vector<std::int64_t> at;
  std::vector<Loads> loads;
  for (const json& record : steps) {
    Loads of_record = loads_of(record);
    if (of_record.empty() || (!loads.empty() && !same_sizes(loads.front(), of_record))) continue;
    at.push_back(record["step"].get<std::int64_t>());
    loads.push_back(std::move(of_record));
  }
  const std::size_t columns = std::min(loads.size(), kMaxLoadColumns);
  const std::size_t layers = loads.empty() ? 0 : loads.front().size();
  std::vector<std::int64_t> steps_of_columns(columns);
  std::vector<Loads> drawn(layers, Loads(columns));
  for (std::size_t i = 0; i < loads.size(); ++i) {
    const std::size_t column = group_of(i, loads.size(), columns);
    steps_of_columns[column] = at[i];
    for (std::size_t layer = 0; layer < layers; ++layer) {
      std::vector<std::int64_t>& sums = drawn[layer][column];
      sums.resize(loads[i][layer].size(), 0);
      for (std::size_t e = 0; e < sums.size(); ++e) sums[e] += loads[i][layer][e];
    }
  }
  return {{"steps", steps_of_columns}, {"layers", drawn}};
}

// A report without it is better than none.
std::string configuration_of(const std::filesystem::path& run_dir) {
  try {
    const auto checkpoint = find_newest_checkpoint(run_dir);
    return checkpoint ? read_progress(*checkpoint).resolved_config : "";
  } catch (const Error&) {
    return "";
  }
}

json facts_of(const Records& records) {
  json facts = json::array();
  if (!records.steps.empty()) {
    const json& last = records.steps.back();
    facts.push_back({"steps", format_count(last["step"].get<std::int64_t>())});
    if (const json tokens = number(last, "tokens"); !tokens.is_null())
      facts.push_back({"tokens", format_count(tokens.get<std::int64_t>())});
    if (const json loss = number(last, "loss"); !loss.is_null())
      facts.push_back({"training loss", fmt::format("{:.4f}", loss.get<double>())});
  }
  if (!records.evaluations.empty()) {
    const json& last = records.evaluations.back();
    if (const json loss = number(last, "eval_loss"); !loss.is_null())
      facts.push_back({"held-out loss", fmt::format("{:.4f}", loss.get<double>())});
    if (const json bits = number(last, "bits_per_byte"); !bits.is_null())
      facts.push_back({"bits per byte", fmt::format("{:.3f}", bits.get<double>())});
  }
  return facts;
}

std::string title_of(const std::filesystem::path& run_dir) {
  const std::filesystem::path whole = std::filesystem::absolute(run_dir).lexically_normal();
  return (whole.has_filename() ? whole : whole.parent_path()).filename().string();
}

}  // namespace

std::string run_report_data(const std::filesystem::path& run_dir) {
  const Records records = read_records(run_dir / "metrics.jsonl");
  const json data{
      {"title", title_of(run_dir)},          {"facts", facts_of(records)},
      {"steps", drawn_steps(records.steps)}, {"evaluations", drawn_evaluations(records.evaluations)},
      {"load", drawn_load(records.steps)},   {"configuration", configuration_of(run_dir)}};
  return data.dump(-1, ' ', false, json::error_handler_t::replace);
}

void write_run_report(const std::filesystem::path& run_dir, const std::filesystem::path& path) {
  html::write(path, {.title = title_of(run_dir) + ": report",
                     .data = run_report_data(run_dir),
                     .script = html::kReportScript});
}

std::filesystem::path run_report_path(const std::filesystem::path& run_dir) {
  return run_dir / "report.html";
}

}  // namespace conclave
