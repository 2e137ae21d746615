#include "comm/watchdog.h"

#include <fmt/format.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>
#include <vector>

#include "comm/watchdog_report.h"

namespace conclave {
namespace {

constexpr std::int64_t kNanoseconds = 1'000'000'000;  // a second

std::int64_t nanoseconds(double seconds) { return static_cast<std::int64_t>(seconds * 1e9); }

std::int64_t now() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * kNanoseconds + time.tv_nsec;
}

// Often enough for the heartbeat to mean something, and for the alarm to be no later than a few percent.
std::chrono::nanoseconds period_of(std::int64_t timeout_ns) {
  return std::chrono::nanoseconds(std::clamp(timeout_ns / 16, kNanoseconds / 100, kNanoseconds / 4));
}

}  // namespace

NodeTable make_private_table(std::size_t ranks, std::size_t own, const std::string& host) {
  struct Memory {
    explicit Memory(std::size_t count) : notes(count) {}
    std::atomic<std::int32_t> reporter{-1};
    std::vector<RankNote> notes;
  };
  const auto memory = std::make_shared<Memory>(ranks);
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    RankNote& note = memory->notes[rank];
    note.rank = static_cast<std::int32_t>(rank);
    std::memcpy(note.host.data(), host.data(), std::min(host.size(), note.host.size() - 1));
  }
  return {memory, &memory->reporter, memory->notes, own};
}

Watchdog::Watchdog()
    : table_(make_private_table(1, 0, "")), timeout_ns_(nanoseconds(kDefaultTimeoutSeconds)) {}

Watchdog::Watchdog(NodeTable table, int world_size, std::function<void(const std::string&)> end_job)
    : table_(std::move(table)),
      world_size_(world_size),
      end_job_(std::move(end_job)),
      timeout_ns_(nanoseconds(kDefaultTimeoutSeconds)) {
  own().heartbeat_ns.store(now(), std::memory_order_relaxed);
  own().since_ns.store(now(), std::memory_order_relaxed);
  // A new thread inherits what is blocked: signals are for the program's own threads.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { watch(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Watchdog::~Watchdog() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Watchdog::set_timeout(double seconds) {
  {
    const std::lock_guard lock(mutex_);
    timeout_ns_.store(nanoseconds(std::min(seconds, 1e9)), std::memory_order_relaxed);
  }
  changed_.notify_all();
}

void Watchdog::begin_wait(const CollectiveNote& collective) {
  constexpr auto kRelaxed = std::memory_order_relaxed;
  RankNote& note = own();
  note.operation.store(collective.operation, kRelaxed);
  note.sequence.store(collective.sequence, kRelaxed);
  note.bytes.store(collective.bytes, kRelaxed);
  note.group.store(collective.group);
  note.group_rank.store(collective.group_rank, kRelaxed);
  note.group_size.store(collective.group_size, kRelaxed);
  note.group_first.store(collective.group_first, kRelaxed);
  note.since_ns.store(now(), kRelaxed);
  note.waiting.store(1, std::memory_order_release);
}

void Watchdog::end_wait() {
  own().waiting.store(0, std::memory_order_relaxed);
  own().since_ns.store(now(), std::memory_order_relaxed);
}

std::string Watchdog::report(std::int64_t now_ns) const {
  std::vector<RankState> states;
  for (const RankNote& note : table_.ranks) states.push_back(state_of(note));
  return hang_report({.ranks = states,
                      .own = table_.own,
                      .world_size = world_size_,
                      .now_ns = now_ns,
                      .timeout_ns = timeout_ns_.load(std::memory_order_relaxed)});
}

void Watchdog::watch() {
  std::int64_t waited_wait = 0;  // the wait that is timed, by when it began; 0: none
  std::int64_t waited_ns = 0;
  std::int64_t last_ns = now();
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const std::int64_t timeout_ns = timeout_ns_.load(std::memory_order_relaxed);
    const std::int64_t now_ns = now();
    own().heartbeat_ns.store(now_ns, std::memory_order_relaxed);

    // A process that was suspended, with its whole job, has not waited in that time.
    const std::int64_t passed_ns = std::min(now_ns - last_ns, period_of(timeout_ns).count() + kNanoseconds);
    last_ns = now_ns;
    const bool waiting = own().waiting.load(std::memory_order_acquire) != 0;
    const std::int64_t wait = waiting ? own().since_ns.load(std::memory_order_relaxed) : 0;
    waited_ns = wait == waited_wait && waiting ? waited_ns + passed_ns : 0;
    waited_wait = wait;

    if (waited_ns > timeout_ns) {
      std::int32_t nobody = -1;
      if (table_.reporter->compare_exchange_strong(nobody, own().rank)) {
        end_job_(report(now_ns));
        return;
      }
      const auto patience = std::chrono::nanoseconds(nanoseconds(kPatienceSeconds));
      if (changed_.wait_for(lock, patience, [this] { return stopping_; })) return;
      end_job_(fmt::format("rank {} reported a collective without an answer, and the job lives on", nobody));
      return;
    }
    changed_.wait_for(lock, period_of(timeout_ns));
  }
}

}  // namespace conclave
