// What each rank has to say: a log file a rank, and rank 0 also on the console.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "trainer/metrics/console.h"

namespace spdlog {
class logger;
}

namespace conclave {

// Lines of <run_dir>/logs/rank_<rank>.log carry date, time with milliseconds, level and rank. Every line is
// in the file when the call returns.
class RunLog {
 public:
  // Appends to the file. `console` (rank 0's; null elsewhere) must outlive the log. Throws Error if the file
  // can't be opened. A `marker` that is not empty stands in every line beside the rank.
  RunLog(const std::filesystem::path& run_dir, int rank, Console* console, const std::string& marker = "");
  ~RunLog();
  RunLog(const RunLog&) = delete;
  RunLog& operator=(const RunLog&) = delete;

  // File only: details for the one who looks into a problem.
  void debug(const std::string& text);
  // File and console.
  void info(const std::string& text);
  void warning(const std::string& text);
  // File only: an error is thrown, and main() reports it.
  void error(const std::string& text);

 private:
  std::unique_ptr<spdlog::logger> logger_;
  Console* console_;
};

}  // namespace conclave
