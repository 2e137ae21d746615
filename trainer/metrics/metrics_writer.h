// metrics.jsonl: the record of a run, one JSON object a line. Reports and plots derive from it.
//
//   {"type": "step", "step": 10, "loss": 4.1, ...}                  fields as in StepRecord
//   {"type": "evaluation", "step": 200, "eval_loss": ..., "bits_per_byte": ...,
//    "eval_loss_by_source": {"kjv": ...}, "bits_per_byte_by_source": {"kjv": ...}}
//
// With moe.router_supervision an evaluation has router_accuracy and router_accuracy_by_source; with
// moe.force_balanced every record has "force_balanced": true. A number that is not finite is null. Where the
// tokens are no bytes, there is no bits_per_byte; where only masked bytes are predicted, it is called
// bits_per_masked_byte.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>

#include "trainer/metrics/step_record.h"

namespace conclave {

// One JSON object, no newline.
std::string to_json(const StepRecord& record);
std::string to_json(const EvaluationRecord& record);

class MetricsWriter {
 public:
  // Opens <run_dir>/metrics.jsonl for appending. The run goes on after `resumed_step` (0: from the start):
  // records of later steps, and a last line that was cut off, are removed first, all at once.
  MetricsWriter(const std::filesystem::path& run_dir, std::int64_t resumed_step);

  // The line is with the operating system when the function returns. Throws Error if it can't be written.
  void write(const StepRecord& record) { write_line(to_json(record)); }
  void write(const EvaluationRecord& record) { write_line(to_json(record)); }

  // Lines that the constructor removed.
  std::int64_t removed_lines() const { return removed_lines_; }

 private:
  void write_line(const std::string& json);

  std::filesystem::path path_;
  std::int64_t removed_lines_ = 0;
  std::ofstream stream_;
};

}  // namespace conclave
