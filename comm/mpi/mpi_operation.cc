#include "comm/mpi/mpi_operation.h"

#include <fmt/format.h>

namespace conclave {

std::string wrong_length_text(int peer, std::int64_t expected_bytes, std::int64_t sent_bytes) {
  return fmt::format("expected {} bytes from rank {}, and it sends {}", expected_bytes, peer, sent_bytes);
}

std::string wrong_operation_text(int peer, Operation operation, std::int64_t sequence, std::int64_t bytes) {
  return fmt::format(
      "rank {} is in another operation, {} number {}, and sends {} bytes; the ranks order their operations "
      "differently",
      peer, name_of(operation), sequence, bytes);
}

}  // namespace conclave
