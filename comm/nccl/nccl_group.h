// One NCCL communicator: its life, its failures, and what errors and the watchdog are told about its
// operations.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "comm/communicator.h"

struct ncclComm;  // NCCL's own, opaque: no header needs NCCL's

namespace conclave {

class NcclGroup {
 public:
  // Collective over `host`, which outlives the group: its rank 0 makes the id by which NCCL's ranks find each
  // other. Throws Error if they can't be connected.
  NcclGroup(Communicator& host, Device device);
  // Collective, and all operations are done; while an exception ends this rank it waits for nobody and ends
  // what NCCL has under way.
  ~NcclGroup();
  NcclGroup(const NcclGroup&) = delete;
  NcclGroup& operator=(const NcclGroup&) = delete;

  ncclComm* comm() const { return comm_; }
  int rank() const { return host_.rank(); }
  int size() const { return host_.size(); }
  Watchdog& watchdog() const { return host_.watchdog(); }

  // The group's next operation.
  CollectiveNote next(Operation operation, std::int64_t bytes);

  // `result` is what a call of NCCL for `operation` returned. Waits where the call is still under way
  // (communicators that don't block return early); throws Error if it failed.
  void check(int result, const CollectiveNote& operation);
  // Throws Error if NCCL has found since that `operation` can't end: a peer is gone, a link is down.
  void check_health(const CollectiveNote& operation);
  // Ends whatever NCCL has under way in this group, on this rank; the group is of no use afterwards.
  void abort();
  // The same of several groups, whose operations may wait for each other.
  static void abort(std::span<NcclGroup* const> groups);

 private:
  // ncclInProgress becomes what follows it.
  int settle(int result, const CollectiveNote& operation);
  [[noreturn]] void fail(int result, const CollectiveNote& operation);

  Communicator& host_;
  int first_rank_ = 0;  // rank in the world of this group's rank 0
  NotedText::Words noted_name_;
  std::int64_t sequence_ = 0;
  ncclComm* comm_ = nullptr;
};

}  // namespace conclave
