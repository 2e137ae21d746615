#include "trainer/metrics/run_log.h"

#include <spdlog/logger.h>
#include <spdlog/sinks/basic_file_sink.h>

#include "comm/base/error.h"

namespace conclave {

RunLog::RunLog(const std::filesystem::path& run_dir, int rank, Console* console, const std::string& marker)
    : console_(console) {
  const std::filesystem::path path = run_dir / "logs" / fmt::format("rank_{}.log", rank);
  try {
    const auto file = std::make_shared<spdlog::sinks::basic_file_sink_mt>(path.string());
    logger_ = std::make_unique<spdlog::logger>(
        fmt::format("rank {}{}{}", rank, marker.empty() ? "" : ", ", marker), file);
  } catch (const spdlog::spdlog_ex& failure) {
    throw Error(fmt::format("can't open the log {}: {}", path.string(), failure.what()));
  }
  logger_->set_pattern("%Y-%m-%d %H:%M:%S.%e %^%l%$ [%n] %v");
  logger_->set_level(spdlog::level::debug);
  logger_->flush_on(spdlog::level::debug);
}

RunLog::~RunLog() = default;

// The text is an argument, not a format: it may hold braces.
void RunLog::debug(const std::string& text) { logger_->debug("{}", text); }

void RunLog::info(const std::string& text) {
  logger_->info("{}", text);
  if (console_ != nullptr) console_->message(text);
}

void RunLog::warning(const std::string& text) {
  logger_->warn("{}", text);
  if (console_ != nullptr) console_->warning(text);
}

void RunLog::error(const std::string& text) { logger_->error("{}", text); }

}  // namespace conclave
