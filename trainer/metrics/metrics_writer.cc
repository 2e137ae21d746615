#include "trainer/metrics/metrics_writer.h"

#include <nlohmann/json.hpp>
#include <optional>

#include "comm/base/error.h"
#include "trainer/durable_file.h"

namespace conclave {
namespace {

// The step of a record; nothing if the line is none.
std::optional<std::int64_t> step_of_line(const std::string& line) {
  const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("step") || !json["step"].is_number_integer()) return std::nullopt;
  return json["step"].get<std::int64_t>();
}

// Removes the lines of later steps and those that are no records. Returns how many.
std::int64_t cut_back(const std::filesystem::path& path, std::int64_t last_step) {
  std::ifstream stream(path);
  std::string kept;
  std::int64_t removed = 0;
  for (std::string line; std::getline(stream, line);) {
    const bool complete = !stream.eof();  // the newline was there
    const std::optional<std::int64_t> step = complete ? step_of_line(line) : std::nullopt;
    if (step && *step <= last_step) {
      kept += line + "\n";
    } else {
      ++removed;
    }
  }
  stream.close();
  if (removed > 0) replace_file_durably(path, kept);
  return removed;
}

// ordered_json keeps the fields in the order in which they are written here, for the human reader.
nlohmann::ordered_json fields_of(const StepRecord& record) {
  return nlohmann::ordered_json{{"type", "step"},
                                {"step", record.step},
                                {"tokens", record.tokens},
                                {"loss", record.loss},
                                {"balance_loss", record.balance_loss},
                                {"balance_loss_raw", record.balance_loss_raw},
                                {"z_loss", record.z_loss},
                                {"supervision_loss", record.supervision_loss},
                                {"lr", record.lr},
                                {"grad_norm", record.grad_norm},
                                {"step_ms", record.step_ms},
                                {"tokens_per_second", record.tokens_per_second},
                                {"load_imbalance", record.load_imbalance},
                                {"dropped_fraction", record.dropped_fraction},
                                {"exchange_fraction", record.exchange_fraction},
                                {"imbalance_tax", record.imbalance_tax},
                                {"dead_experts", record.dead_experts},
                                {"load_entropy", record.load_entropy},
                                {"router_entropy", record.router_entropy},
                                {"rank_imbalance", record.rank_imbalance},
                                {"skipped_steps", record.skipped_steps},
                                {"failed_saves", record.failed_saves},
                                {"memory_bytes", record.memory_bytes},
                                {"load_imbalance_by_layer", record.load_imbalance_by_layer},
                                {"dropped_by_layer", record.dropped_by_layer},
                                {"dropped_by_choice", record.dropped_by_choice},
                                {"expert_load", record.expert_load}};
}

}  // namespace

std::string to_json(const StepRecord& record) {
  nlohmann::ordered_json json = fields_of(record);
  for (const auto& [part, share] : record.time_shares) json["time"][part] = share;
  if (record.importance_loss != 0) json["importance_loss"] = record.importance_loss;
  if (record.load_loss != 0) json["load_loss"] = record.load_loss;
  if (record.force_balanced) json["force_balanced"] = true;
  return json.dump();
}

std::string to_json(const EvaluationRecord& record) {
  nlohmann::ordered_json json{{"type", "evaluation"}, {"step", record.step}, {"eval_loss", record.eval_loss}};
  const std::string bits = record.masked ? "bits_per_masked_byte" : "bits_per_byte";
  if (record.tokens_are_bytes) json[bits] = record.bits_per_byte;
  if (record.mean_squared_error) json["mean_squared_error"] = *record.mean_squared_error;
  if (record.best_mean_squared_error) json["best_mean_squared_error"] = *record.best_mean_squared_error;
  if (record.router_accuracy) json["router_accuracy"] = *record.router_accuracy;
  if (record.force_balanced) json["force_balanced"] = true;
  for (const SourceEvaluation& source : record.by_source) {
    if (source.router_accuracy) json["router_accuracy_by_source"][source.source] = *source.router_accuracy;
    json["eval_loss_by_source"][source.source] = source.eval_loss;
    if (record.tokens_are_bytes) json[bits + "_by_source"][source.source] = source.bits_per_byte;
  }
  return json.dump();
}

MetricsWriter::MetricsWriter(const std::filesystem::path& run_dir, std::int64_t resumed_step)
    : path_(run_dir / "metrics.jsonl") {
  if (std::filesystem::exists(path_)) removed_lines_ = cut_back(path_, resumed_step);
  stream_.open(path_, std::ios::app);
  CONCLAVE_CHECK(stream_.good(), "can't open {} for writing", path_.string());
}

void MetricsWriter::write_line(const std::string& json) {
  stream_ << json << '\n' << std::flush;
  CONCLAVE_CHECK(stream_.good(), "can't write to {} (is the disk full?)", path_.string());
}

}  // namespace conclave
