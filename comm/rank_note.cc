#include "comm/rank_note.h"

#include <algorithm>
#include <cstring>

namespace conclave {

const char* name_of(Operation operation) {
  switch (operation) {
    case Operation::kNone:
      return "nothing";
    case Operation::kAllToAllV:
      return "all_to_all_v";
    case Operation::kAllReduce:
      return "all_reduce";
    case Operation::kReduceScatter:
      return "reduce_scatter";
    case Operation::kAllGather:
      return "all_gather";
    case Operation::kBroadcast:
      return "broadcast";
    case Operation::kBarrier:
      return "barrier";
    case Operation::kSplit:
      return "split";
    case Operation::kFree:
      return "the end of the group";
    case Operation::kFinalize:
      return "the end of the program";
  }
  return "an unknown operation";
}

NotedText::Words NotedText::words_of(std::string_view text) {
  Words words{};
  std::memcpy(words.data(), text.data(), std::min(text.size(), kMaxBytes));
  return words;
}

void NotedText::store(const Words& words) {
  for (std::size_t i = 0; i < words.size(); ++i) words_[i].store(words[i], std::memory_order_relaxed);
}

std::string NotedText::text() const {
  Words words{};
  for (std::size_t i = 0; i < words.size(); ++i) words[i] = words_[i].load(std::memory_order_relaxed);
  std::array<char, kMaxBytes> bytes{};
  std::memcpy(bytes.data(), words.data(), bytes.size());
  return {bytes.begin(), std::find(bytes.begin(), bytes.end(), '\0')};
}

RankState state_of(const RankNote& note) {
  constexpr auto kRelaxed = std::memory_order_relaxed;
  RankState state;
  state.rank = note.rank;
  state.host = {note.host.begin(), std::find(note.host.begin(), note.host.end(), '\0')};
  state.waiting = note.waiting.load(std::memory_order_acquire) != 0;
  state.heartbeat_ns = note.heartbeat_ns.load(kRelaxed);
  state.step = note.step.load(kRelaxed);
  state.layer = note.layer.load(kRelaxed);
  state.since_ns = note.since_ns.load(kRelaxed);
  state.operation = note.operation.load(kRelaxed);
  state.sequence = note.sequence.load(kRelaxed);
  state.bytes = note.bytes.load(kRelaxed);
  state.group_rank = note.group_rank.load(kRelaxed);
  state.group_size = note.group_size.load(kRelaxed);
  state.group_first = note.group_first.load(kRelaxed);
  state.group = note.group.text();
  return state;
}

}  // namespace conclave
