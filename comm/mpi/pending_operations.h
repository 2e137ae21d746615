// Collectives of an MPI group that are under way.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "comm/base/partition.h"
#include "comm/communicator.h"
#include "comm/mpi/mpi_group.h"

namespace conclave {

// Element `element` of a buffer, and the bytes of so many.
inline char* at(void* data, std::int64_t element, DType dtype) {
  return static_cast<char*>(data) + static_cast<std::size_t>(element) * size_of(dtype);
}
inline const char* at(const void* data, std::int64_t element, DType dtype) {
  return static_cast<const char*>(data) + static_cast<std::size_t>(element) * size_of(dtype);
}
inline std::int64_t bytes_of(std::int64_t elements, DType dtype) {
  return elements * static_cast<std::int64_t>(size_of(dtype));
}

// Operations of one kind that are complete, for those to come: they keep the memory of their messages.
template <class Operation>
class OperationPool {
 public:
  explicit OperationPool(const MpiGroup& group) : group_(group) {}

  std::unique_ptr<Operation> take() {
    if (idle_.empty()) return std::make_unique<Operation>(group_, *this);
    std::unique_ptr<Operation> operation = std::move(idle_.back());
    idle_.pop_back();
    return operation;
  }
  void give_back(std::unique_ptr<PendingOperation> operation) {
    idle_.emplace_back(static_cast<Operation*>(operation.release()));
  }
  // After the group's channels have changed.
  void clear() { idle_.clear(); }

 private:
  const MpiGroup& group_;
  std::vector<std::unique_ptr<Operation>> idle_;
};

// Messages that whoever starts the operation adds; complete when they are.
class PendingTransfers final : public PendingOperation {
 public:
  using Pool = OperationPool<PendingTransfers>;
  PendingTransfers(const MpiGroup& group, Pool& pool)
      : transfers(group.make_transfers()), group_(group), pool_(pool) {}
  void wait() override { group_.finish(transfers, operation); }
  void retire(std::unique_ptr<PendingOperation> self) override { pool_.give_back(std::move(self)); }

  Transfers transfers;
  MpiOperation operation;

 private:
  const MpiGroup& group_;
  Pool& pool_;
};

// Block r of `data`, cut by partition(), goes to rank r, which reduces the blocks that it got in the order of
// ranks; an all_reduce then gathers the results.
class PendingReduction final : public PendingOperation {
 public:
  using Pool = OperationPool<PendingReduction>;
  PendingReduction(const MpiGroup& group, Pool& pool)
      : group_(group), pool_(pool), transfers_(group.make_transfers()) {}
  // `result` holds this rank's block. The group and the buffers must outlive the operation.
  void start(MpiOperation operation, BufferView data, void* result, ReduceOp op, bool gathers);
  void wait() override;
  void retire(std::unique_ptr<PendingOperation> self) override { pool_.give_back(std::move(self)); }

 private:
  Range block(int rank) const { return partition(data_.count, group_.size(), rank); }
  void receive(void* to, std::int64_t bytes, int from);
  void send(Range elements, int to);

  const MpiGroup& group_;
  Pool& pool_;
  Transfers transfers_;
  MpiOperation operation_;
  BufferView data_;
  void* result_ = nullptr;
  ReduceOp op_ = ReduceOp::kSum;
  bool gathers_ = false;
  std::vector<std::byte> received_;   // [ranks] blocks of this rank's elements, or more
  std::vector<const void*> sources_;  // [ranks]
};

}  // namespace conclave
