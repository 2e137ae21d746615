// The NCCL operations that this process has under way, of all its groups.
//
// They share one stream, and so run one after the other in the order in which the program starts them, which
// is the same on every rank. Beside each other, in streams of their own, the kernels of two groups could each
// hold the GPU that the other group's peer needs, and wait for ever.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "comm/cuda/memory.h"
#include "comm/cuda/stream.h"
#include "comm/nccl/nccl_group.h"

namespace conclave {

class NcclQueue {
 public:
  // An operation that has been enqueued.
  struct Operation {
    NcclGroup& group;
    CollectiveNote note;
    cuda::Event end;
    bool awaited = false;  // the computing stream waits for it
  };

  // `compute` outlives the queue. Whoever waits for `compute` looks after the operations that it waits for:
  // the wait is noted with the watchdog, a failure ends what all groups have under way and is thrown as
  // Error.
  explicit NcclQueue(cuda::Stream& compute);
  ~NcclQueue();
  NcclQueue(const NcclQueue&) = delete;
  NcclQueue& operator=(const NcclQueue&) = delete;

  void add(NcclGroup& group) { groups_.push_back(&group); }
  // Waits for the operations of all groups, unless an exception ends this rank.
  void remove(NcclGroup& group);

  const cuda::Stream& stream() const { return stream_; }
  // What `enqueue` puts into stream() runs after what the computing stream holds so far.
  std::shared_ptr<Operation> run(NcclGroup& group, const CollectiveNote& note,
                                 const std::function<void()>& enqueue);
  // What the computing stream gets from now on runs after the operation.
  void hold_back_compute(Operation& operation);
  // Throws Error if an operation has failed.
  void check_health();

  // Memory for operations, one after the other, until the next call.
  std::byte* scratch(std::size_t bytes);

 private:
  void find_failures();
  void check_groups();
  void wait_for_awaited();
  void wait_for_all();
  void wait_for_first();
  // Runs `action`; if it throws, ends what all groups have under way.
  void or_abort(const std::function<void()>& action);

  cuda::Stream& compute_;
  cuda::Stream stream_;
  cuda::Event start_;
  std::deque<std::shared_ptr<Operation>> under_way_;
  std::vector<NcclGroup*> groups_;
  std::size_t scratch_bytes_ = 0;
  cuda::Memory scratch_;
};

}  // namespace conclave
