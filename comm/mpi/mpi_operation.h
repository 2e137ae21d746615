// One collective of a group, as messages and errors name it.
#pragma once

#include <cstdint>
#include <string>

#include "comm/rank_note.h"

namespace conclave {

struct MpiOperation {
  Operation operation = Operation::kNone;
  std::int64_t sequence = 0;  // of the group's collectives, from 1
  std::int64_t bytes = 0;     // of this rank's buffers
  int phase = 0;              // 0 or 1: an all_reduce exchanges messages twice
};

// What is said where a peer's message is not the one that is expected from it.
std::string wrong_length_text(int peer, std::int64_t expected_bytes, std::int64_t sent_bytes);
std::string wrong_operation_text(int peer, Operation operation, std::int64_t sequence, std::int64_t bytes);

}  // namespace conclave
