// The one error type of Conclave and the checks that throw it.
//
// Policy: code anywhere throws; only trainer/main.cc catches, reports the first failing rank
// once and ends the whole job. A rank must never swallow an error, return early or assert:
// its peers would wait for it forever.
#pragma once

#include <fmt/format.h>

#include <source_location>
#include <stdexcept>
#include <string>

namespace conclave {

// The process exit code that an error asks for.
enum class ExitCode : int {
  kDone = 0,
  kFailure = 1,        // data, disk, numbers, communication: anything that is not named below
  kRequeue = 75,       // stopped on request, state saved: start me again (EX_TEMPFAIL)
  kConfiguration = 78  // the configuration can't be run (EX_CONFIG)
};

class Error : public std::runtime_error {
 public:
  explicit Error(std::string message, ExitCode exit_code = ExitCode::kFailure,
                 std::source_location where = std::source_location::current());

  ExitCode exit_code() const { return exit_code_; }
  // "file:line" of the code that threw; for bug reports, not for users' mistakes.
  const std::string& origin() const { return origin_; }

 private:
  ExitCode exit_code_;
  std::string origin_;
};

// A mistake in the user's configuration: the message says what, where and how to mend it.
class ConfigError : public Error {
 public:
  explicit ConfigError(std::string message, std::source_location where = std::source_location::current())
      : Error(std::move(message), ExitCode::kConfiguration, where) {}
};

// Throws Error unless `condition` holds. The message is a fmt format string followed by its arguments and
// should carry the values that disagree.
#define CONCLAVE_CHECK(condition, ...)                                     \
  do {                                                                     \
    if (!(condition)) throw ::conclave::Error(::fmt::format(__VA_ARGS__)); \
  } while (false)

// Throws Error with both values unless they are equal. `what` names the pair in words.
#define CONCLAVE_CHECK_EQ(actual, expected, what)                                                \
  do {                                                                                           \
    const auto& conclave_actual = (actual);                                                      \
    const auto& conclave_expected = (expected);                                                  \
    if (!(conclave_actual == conclave_expected))                                                 \
      throw ::conclave::Error(                                                                   \
          ::fmt::format("{}: found {}, expected {}", what, conclave_actual, conclave_expected)); \
  } while (false)

}  // namespace conclave
