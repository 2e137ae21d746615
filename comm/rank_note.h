// What a rank notes about itself while it trains, for others to read when it can no longer answer.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>

namespace conclave {

// What a rank may wait for others in.
enum class Operation : std::uint32_t {
  kNone,
  kAllToAllV,
  kAllReduce,
  kReduceScatter,
  kAllGather,
  kBroadcast,
  kBarrier,
  kSplit,
  kFree,     // of a group, at the end of its life
  kFinalize  // the end of MPI, at the end of the program
};
const char* name_of(Operation operation);

// A short text that threads and processes may read while it changes: they may see a mixture, never a race.
class NotedText {
 public:
  static constexpr std::size_t kMaxBytes = 24;  // longer texts are cut

  using Words = std::array<std::uint64_t, kMaxBytes / sizeof(std::uint64_t)>;
  static Words words_of(std::string_view text);

  void store(const Words& words);
  std::string text() const;

 private:
  std::array<std::atomic<std::uint64_t>, Words().size()> words_{};
};

// One collective of one group, as its ranks know it.
struct CollectiveNote {
  Operation operation = Operation::kNone;
  std::int64_t sequence = 0;  // of the group's collectives, from 1
  std::int64_t bytes = 0;     // of this rank's buffers
  NotedText::Words group{};
  std::int32_t group_rank = 0;
  std::int32_t group_size = 1;
  std::int32_t group_first = 0;  // rank in the world of the group's rank 0: tells groups of one name apart
};

// A rank's line in the table of its node. Times are those of CLOCK_MONOTONIC, which all processes of a node
// share. The rank's own thread writes what it does, its watchdog the heartbeat; anybody reads.
struct alignas(64) RankNote {
  // Written before anybody else reads.
  std::int32_t rank = 0;
  std::array<char, 64> host{};

  std::atomic<std::int64_t> heartbeat_ns{0};
  std::atomic<std::int64_t> step{-1};   // from 0; -1: before the first
  std::atomic<std::int64_t> layer{-1};  // -1: in none
  std::atomic<std::uint32_t> waiting{0};
  std::atomic<std::int64_t> since_ns{0};  // it waits, or, if it doesn't, since the last wait ended

  // The collective that it waits in, or waited in last.
  std::atomic<Operation> operation{Operation::kNone};
  std::atomic<std::int64_t> sequence{0};
  std::atomic<std::int64_t> bytes{0};
  std::atomic<std::int32_t> group_rank{0};
  std::atomic<std::int32_t> group_size{1};
  std::atomic<std::int32_t> group_first{0};
  NotedText group;
};
static_assert(std::atomic<std::int64_t>::is_always_lock_free && std::atomic<Operation>::is_always_lock_free,
              "only lock-free atomics may be shared between processes");

// A copy of a note, to be read at leisure.
struct RankState {
  int rank = 0;
  std::string host;
  std::int64_t heartbeat_ns = 0;
  std::int64_t step = -1;
  std::int64_t layer = -1;
  bool waiting = false;
  std::int64_t since_ns = 0;
  Operation operation = Operation::kNone;
  std::int64_t sequence = 0;
  std::int64_t bytes = 0;
  int group_rank = 0;
  int group_size = 1;
  int group_first = 0;
  std::string group;
};
RankState state_of(const RankNote& note);

}  // namespace conclave
