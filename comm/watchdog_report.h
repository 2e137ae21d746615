// The words of a watchdog: who waits where, and who is missing.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "comm/rank_note.h"

namespace conclave {

struct Hang {
  std::span<const RankState> ranks;  // of this node, by rank
  std::size_t own = 0;               // the index of the rank that has waited too long
  int world_size = 1;
  std::int64_t now_ns = 0;
  std::int64_t timeout_ns = 0;
};

// A line for each rank of the node, and a last one that names the cause: ranks that show no sign of life,
// ranks that have not come, ranks that wait in an earlier collective of the same group, or ranks that wait
// in different operations. No newline at the end.
std::string hang_report(const Hang& hang);

}  // namespace conclave
