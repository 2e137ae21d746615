#include "comm/base/error.h"

#include <utility>

namespace conclave {

Error::Error(std::string message, ExitCode exit_code, std::source_location where)
    : std::runtime_error(std::move(message)),
      exit_code_(exit_code),
      origin_(fmt::format("{}:{}", where.file_name(), where.line())) {}

}  // namespace conclave
