// How ranks agree on text and on failures: the small talk around a checkpoint.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "comm/communicator.h"

namespace conclave {

// Collective. Every rank passes what went wrong on it ("" for nothing); all get the message of the first rank
// that failed, prefixed by "rank R: " where there are several ranks, or "" if none did.
std::string first_failure(Communicator& world, const std::string& own_failure);

// Collective. The bytes of every rank, in rank order, on rank 0; nothing on the others.
std::vector<std::string> gather_on_rank_0(Communicator& world, std::string_view bytes);

// Collective. The text of rank `root` on every rank.
std::string broadcast_text(Communicator& world, std::string text, int root);

}  // namespace conclave
