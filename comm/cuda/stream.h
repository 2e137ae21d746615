// Work that a GPU does in order, beside the host and other streams.
#pragma once

#include <cstdint>
#include <functional>
#include <utility>

#include "comm/base/device.h"

namespace conclave::cuda {

// What the CUDA runtime knows a stream or an event by (cudaStream_t, cudaEvent_t): opaque here, so that no
// header needs CUDA's.
using StreamHandle = void*;
using EventHandle = void*;

class Recording;

class Stream {
 public:
  // Throws Error if GPU `index` can't be used. Selects it for the calling thread.
  // `is_urgent`: its kernels get the multiprocessors that become free before those of other streams do.
  explicit Stream(int index, bool is_urgent = false);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // Waits until all work enqueued so far is done; afterwards the host may read and write what it wrote.
  // Throws Error if any of it failed.
  void synchronize() const;
  // `action` comes first in every synchronize(): of whoever knows that work in this stream waits for other
  // processes, and that it may fail or never end. Replaces the one before.
  void before_synchronize(std::function<void()> action) { before_synchronize_ = std::move(action); }

  // How often somebody has waited for this stream so far.
  std::int64_t waits() const { return waits_; }

  // Null unless what is enqueued is being recorded (comm/cuda/recording.h).
  Recording* recording() const { return recording_; }
  // For what no graph can hold, messages and waits: runs `action`, and where the stream is recorded once more
  // in every replay, at the same place. Nothing it refers to may end before the recording.
  void outside_graphs(const std::function<void()>& action) const;

  StreamHandle handle() const { return handle_; }
  Device device() const { return device_; }

 private:
  friend class Recording;

  Device device_;
  StreamHandle handle_ = nullptr;
  Recording* recording_ = nullptr;
  std::function<void()> before_synchronize_;
  mutable std::int64_t waits_ = 0;
};

// A place in a stream's work.
class Event {
 public:
  Event();
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record(const Stream& stream);           // after everything enqueued in `stream` so far
  void hold_back(const Stream& stream) const;  // what is enqueued there from now on waits for the event
  bool is_done() const;                        // everything before the event; true before the first record()
  void synchronize() const;                    // waits for that

 private:
  EventHandle handle_ = nullptr;
};

}  // namespace conclave::cuda
