// The report of a run: its metrics.jsonl as a page.
#pragma once

#include <filesystem>
#include <string>

#include "trainer/html/page.h"

namespace conclave {

// The records of <run_dir>/metrics.jsonl as JSON:
//   title, facts     the run's name, its steps, last losses
//   steps            {"step": [...], "loss": [...], ...}: the fields of StepRecord that are drawn
//   evaluations      {"step", "loss", "sources": [{"name", "loss"}]}
//   load             {"steps", "layers": [layers][steps][E]}: choices by expert; no layers for a dense model
//   configuration    YAML, where a checkpoint has it
// A long run is thinned out to at most 1,000 points and 240 columns of load, each the mean (the sum) over the
// records that it stands for. Lines that are no records are passed over. Throws Error if the file is missing
// or has no record.
std::string run_report_data(const std::filesystem::path& run_dir);

// <run_dir>/report.html, or `path`. Throws Error as above, or if it can't be written.
void write_run_report(const std::filesystem::path& run_dir, const std::filesystem::path& path);
std::filesystem::path run_report_path(const std::filesystem::path& run_dir);

}  // namespace conclave
