// SEAM 1: who talks to whom. A Communicator is one process group; each backend
// (self, mpi, nccl) implements it.
//
// Rules for every collective
//  * All ranks of the group call the same operations in the same order, and wait for reductions in the same
//    order.
//  * Counts are elements, 64 bits. Buffers are contiguous and must not overlap unless a function says so.
//  * The public functions check their arguments (null with a count, overlap, dtype, device, counts against
//    sizes) and throw Error before anything is sent; the backends implement the protected do_* functions.
//  * An operation is started by the call and complete when its Work has been waited for. Buffers belong to
//    the operation until then. `Work` waits in its destructor, so `comm.barrier();` is a blocking call. A
//    Work that is destroyed by an exception does not wait: the job is ending, the peers may never answer.
//  * Reductions add in rank order 0, 1, ..., size-1 for every element, whatever the backend: results are
//    bitwise repeatable and the same on every rank. Cost: the bytes of a ring reduce-scatter. bfloat16 is
//    added in float32 and rounded once. A NaN on any rank is the result of kMax and kMin too.
//  * Zero counts are normal and take part like any other.
//  * Buffers on a GPU belong to the stream in which this rank computes: an operation begins after what is
//    enqueued there when it is started, and waiting for its Work holds back that stream, not the host.
//    Whoever reads the result on the host waits for the stream afterwards. In host memory a result is there,
//    as above.
//  * A wait for other ranks is noted with the watchdog, whatever the backend.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "comm/base/buffer_view.h"
#include "comm/base/device.h"
#include "comm/base/reduce_op.h"
#include "comm/paths.h"
#include "comm/watchdog.h"

namespace conclave {

// An operation under way. Backends derive from it.
class PendingOperation {
 public:
  virtual ~PendingOperation() = default;
  // Returns when the operation is complete on this rank; throws Error if it failed. Called once.
  virtual void wait() = 0;
  // The operation is complete, and `self`, which holds this object, is all that is left of it: a backend may
  // keep it for an operation to come, so that starting one takes no memory.
  virtual void retire([[maybe_unused]] std::unique_ptr<PendingOperation> self) {}
};

// Handle to a started operation; a default-constructed one is complete. Move-only.
class Work {
 public:
  Work() = default;
  explicit Work(std::unique_ptr<PendingOperation> pending) : pending_(std::move(pending)) {}
  Work(Work&&) = default;
  Work& operator=(Work&& other);
  ~Work() noexcept(false);

  // Returns when the operation is complete on this rank; later calls return at once.
  void wait();

 private:
  std::unique_ptr<PendingOperation> pending_;
};

// Where the blocks of one side of an all_to_all_v lie: that for rank r, or from it, is counts[r] elements
// from offsets[r] on.
struct Blocks {
  std::span<const std::int64_t> counts;   // [ranks]
  std::span<const std::int64_t> offsets;  // [ranks]
};

class Communicator {
 public:
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  // "world", "expert_parallel", "expert_data", ...: for messages.
  const std::string& name() const { return name_; }
  // Shared by the groups of this process: ends the job when a collective waits too long.
  Watchdog& watchdog() const { return *watchdog_; }
  const std::shared_ptr<Watchdog>& shared_watchdog() const { return watchdog_; }
  // kCuda: the group moves the memory of GPUs beside that of the host; else buffers there are refused.
  DeviceKind device_kind() const { return device_kind_; }

  // Block r of send goes to rank r; block r of recv came from rank r. send.count == recv.count,
  // divisible by size().
  Work all_to_all(ConstBufferView send, BufferView recv);

  // send_counts[r] elements go to rank r, recv_counts[r] come from it; blocks lie in rank order without gaps.
  // The counts are read during the call and may be changed after it.
  Work all_to_all_v(ConstBufferView send, std::span<const std::int64_t> send_counts, BufferView recv,
                    std::span<const std::int64_t> recv_counts);
  // The same with blocks that lie anywhere in the buffers; those of recv must not overlap. Only the blocks
  // belong to the operation: others of the same buffers may take part in one that is under way beside it.
  Work all_to_all_v(ConstBufferView send, Blocks send_blocks, BufferView recv, Blocks recv_blocks);

  // In place: data = op over ranks of data, added in rank order.
  Work all_reduce(BufferView data, ReduceOp op = ReduceOp::kSum);

  // recv = block rank() of the reduced send. send.count == size() * recv.count.
  Work reduce_scatter(ConstBufferView send, BufferView recv, ReduceOp op = ReduceOp::kSum);

  // recv = the send buffers of all ranks in rank order. recv.count == size() * send.count. send may be block
  // rank() of recv itself (in place).
  Work all_gather(ConstBufferView send, BufferView recv);

  // data of rank `root` replaces data of the others.
  Work broadcast(BufferView data, int root);

  Work barrier();

  // Moves what is under way, of any group of this process, as far as it goes without waiting. For those who
  // compute for long between the start of an operation and its end; some microseconds.
  virtual void progress() {}

  // A new group of the ranks that pass the same color, ordered by key, then by rank. Collective and blocking.
  std::unique_ptr<Communicator> split(int color, int key, std::string name);

  // Collective, while no operation is under way: which way the data of this group takes, and of the groups
  // that are split from it afterwards. Results are the same bit for bit. Throws Error, on every rank, if
  // shared memory is asked for and a node has none.
  void set_paths(const PathOptions& options);
  // "shared memory", "MPI", ...: for the start-up table.
  virtual std::string describe_paths() const { return "one process"; }

 protected:
  Communicator(int rank, int size, std::string name, std::shared_ptr<Watchdog> watchdog,
               DeviceKind device_kind = DeviceKind::kCpu)
      : rank_(rank),
        size_(size),
        name_(std::move(name)),
        watchdog_(std::move(watchdog)),
        device_kind_(device_kind) {}

  virtual Work do_all_to_all_v(ConstBufferView send, Blocks send_blocks, BufferView recv,
                               Blocks recv_blocks) = 0;
  virtual Work do_all_reduce(BufferView data, ReduceOp op) = 0;
  virtual Work do_reduce_scatter(ConstBufferView send, BufferView recv, ReduceOp op) = 0;
  virtual Work do_all_gather(ConstBufferView send, BufferView recv) = 0;
  virtual Work do_broadcast(BufferView data, int root) = 0;
  virtual Work do_barrier() = 0;
  virtual void do_set_paths(const PathOptions&) {}
  virtual std::unique_ptr<Communicator> do_split(int color, int key, std::string name) = 0;

 private:
  int rank_;
  int size_;
  std::string name_;
  std::shared_ptr<Watchdog> watchdog_;
  DeviceKind device_kind_;
  std::vector<std::int64_t> send_offsets_;  // of the blocks of the last all_to_all_v without gaps
  std::vector<std::int64_t> recv_offsets_;

  void check_buffer(const char* operation, const char* argument, ConstBufferView buffer) const;
  void check_pair(const char* operation, ConstBufferView send, ConstBufferView recv) const;
  void check_blocks(const char* operation, const char* argument, std::int64_t count,
                    const Blocks& blocks) const;
};

}  // namespace conclave
