// Finds collectives that wait too long, and says who waits where and who is missing.
//
// Every rank notes what it waits for in a table that all ranks of its node can read (comm/rank_note.h), and
// runs one thread that reads it. The notes of a rank that is stopped or dead stay readable, and a heartbeat
// that stands still tells it from one that waits.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>

#include "comm/rank_note.h"

namespace conclave {

// The notes of the ranks of one node.
struct NodeTable {
  std::shared_ptr<void> memory;                   // keeps what follows alive
  std::atomic<std::int32_t>* reporter = nullptr;  // the rank that reports for the node; -1: none yet
  std::span<RankNote> ranks;                      // in the order of their ranks
  std::size_t own = 0;                            // the index of this process's
};

// A table in the memory of this process alone, with ranks 0, 1, ... on host `host`.
NodeTable make_private_table(std::size_t ranks, std::size_t own, const std::string& host);

// All functions but the constructor and destructor may be called while the thread runs; notes are a few
// relaxed stores and two readings of the clock for each collective.
class Watchdog {
 public:
  static constexpr double kDefaultTimeoutSeconds = 600;

  // Notes, and watches nothing: a world of one waits for nobody.
  Watchdog();
  // Watches the wait of rank table.own in a world of `world_size` ranks. Once it has lasted longer than the
  // timeout, one rank of the node calls `end_job`, in its watchdog's thread, with the report; the others call
  // it with a shorter one only if they still live kPatienceSeconds later.
  Watchdog(NodeTable table, int world_size, std::function<void(const std::string& report)> end_job);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  // Of this process, in the world.
  int rank() const { return own().rank; }

  void set_timeout(double seconds);
  // Where the run is, for reports.
  void set_step(std::int64_t step) { own().step.store(step, std::memory_order_relaxed); }
  void set_layer(std::int64_t layer) { own().layer.store(layer, std::memory_order_relaxed); }

  void begin_wait(const CollectiveNote& collective);
  void end_wait();

 private:
  static constexpr double kPatienceSeconds = 3;

  RankNote& own() const { return table_.ranks[table_.own]; }
  void watch();
  std::string report(std::int64_t now_ns) const;

  NodeTable table_;
  int world_size_ = 1;
  std::function<void(const std::string&)> end_job_;
  std::atomic<std::int64_t> timeout_ns_;

  std::mutex mutex_;
  std::condition_variable changed_;  // stopping_ or timeout_ns_
  bool stopping_ = false;
  std::thread thread_;
};

// The time between begin_wait and end_wait, also where an exception ends it.
class WatchedWait {
 public:
  WatchedWait(Watchdog& watchdog, const CollectiveNote& collective) : watchdog_(watchdog) {
    watchdog_.begin_wait(collective);
  }
  ~WatchedWait() { watchdog_.end_wait(); }
  WatchedWait(const WatchedWait&) = delete;
  WatchedWait& operator=(const WatchedWait&) = delete;

 private:
  Watchdog& watchdog_;
};

}  // namespace conclave
