#include "comm/watchdog_report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

namespace conclave {
namespace {

double seconds(std::int64_t nanoseconds) { return static_cast<double>(nanoseconds) / 1e9; }

std::string place(const RankState& state) {
  if (state.step < 0) return "before the first step";
  if (state.layer < 0) return fmt::format("step {}", state.step + 1);
  return fmt::format("step {}, layer {}", state.step + 1, state.layer);
}

// On its way out: groups are freed at the end of a run.
bool has_ended(const RankState& state) {
  return state.waiting && (state.operation == Operation::kFinalize || state.operation == Operation::kFree);
}

std::string collective(const RankState& state) {
  if (state.operation == Operation::kFinalize) return name_of(state.operation);
  return fmt::format("{} number {} of group \"{}\" (rank {} of {}), {} bytes", name_of(state.operation),
                     state.sequence, state.group, state.group_rank, state.group_size, state.bytes);
}

bool same_group(const RankState& a, const RankState& b) {
  return a.group == b.group && a.group_first == b.group_first;
}

bool same_collective(const RankState& a, const RankState& b) {
  return a.operation == b.operation && a.sequence == b.sequence && same_group(a, b);
}

class Report {
 public:
  explicit Report(const Hang& hang) : hang_(hang), own_(hang.ranks[hang.own]) {}

  std::string text() const {
    std::string lines = fmt::format(
        "no answer within run.timeout of {:g} s to rank {}, {}: {}; ranks of {}:", seconds(hang_.timeout_ns),
        own_.rank, place(own_), collective(own_), own_.host);
    for (const RankState& state : hang_.ranks) lines += fmt::format("\n  rank {}", line(state));
    return lines + "\nconclave: " + cause();
  }

 private:
  std::int64_t age(std::int64_t then_ns) const { return std::max<std::int64_t>(hang_.now_ns - then_ns, 0); }

  // The processes of a busy machine are late now and then, never for this long.
  bool is_silent(const RankState& state) const {
    constexpr std::int64_t kLeast = 1'000'000'000;
    return age(state.heartbeat_ns) > std::max(kLeast, hang_.timeout_ns / 2);
  }
  // In an earlier collective of a group that this rank waits in.
  bool is_behind(const RankState& state) const {
    return same_group(state, own_) && state.sequence < own_.sequence;
  }

  std::string line(const RankState& state) const {
    const double age_s = seconds(age(state.since_ns));
    std::string text = fmt::format("{} on {}, {}: ", state.rank, state.host, place(state));
    if (state.waiting) {
      text += fmt::format("waits {:.1f} s in {}", age_s, collective(state));
    } else if (state.operation == Operation::kNone) {
      text += "has not waited in a collective yet";
    } else {
      text += fmt::format("waits in none; its last ended {:.1f} s ago: {}", age_s, collective(state));
    }
    if (is_silent(state)) {
      text += fmt::format("; no sign of life for {:.1f} s", seconds(age(state.heartbeat_ns)));
    }
    return text;
  }

  // Those of the node for which the predicate holds, "; " between them; "" if there are none.
  template <class Predicate>
  std::string those(Predicate predicate) const {
    std::vector<std::string> names;
    for (const RankState& state : hang_.ranks) {
      if (predicate(state)) {
        names.push_back(
            fmt::format("rank {} on {} ({}, {})", state.rank, state.host, place(state), collective(state)));
      }
    }
    return fmt::format("{}", fmt::join(names, "; "));
  }

  std::string cause() const {
    const std::string silent = those([&](const RankState& s) { return is_silent(s); });
    if (!silent.empty()) return fmt::format("missing, stopped or dead: {}; the job ends", silent);

    const std::string ended = those([](const RankState& s) { return has_ended(s); });
    if (!ended.empty() && !std::ranges::all_of(hang_.ranks, has_ended)) {
      return fmt::format("missing, at its end already: {}; the job ends", ended);
    }
    const std::string busy = those([](const RankState& s) { return !s.waiting; });
    if (!busy.empty()) return fmt::format("missing, busy elsewhere since: {}; the job ends", busy);

    const std::string behind = those([&](const RankState& s) { return is_behind(s); });
    if (!behind.empty()) {
      return fmt::format("missing, waiting in an earlier collective: {}; the job ends", behind);
    }
    if (!is_alone()) {
      return fmt::format(
          "missing, of this node: none; of the {} ranks on other nodes those that their node's report names, "
          "or whose node reports nothing; no word from them for {:.1f} s; the job ends",
          static_cast<std::size_t>(hang_.world_size) - hang_.ranks.size(), seconds(age(own_.since_ns)));
    }
    const std::string elsewhere = those([&](const RankState& s) { return !same_collective(s, own_); });
    if (elsewhere.empty()) return "missing: none; messages between the ranks do not arrive; the job ends";
    return fmt::format("ranks order operations differently: {} against {}; the job ends",
                       those([&](const RankState& s) { return s.rank == own_.rank; }), elsewhere);
  }

  // No rank runs on another node.
  bool is_alone() const { return hang_.ranks.size() == static_cast<std::size_t>(hang_.world_size); }

  const Hang& hang_;
  const RankState& own_;
};

}  // namespace

std::string hang_report(const Hang& hang) { return Report(hang).text(); }

}  // namespace conclave
