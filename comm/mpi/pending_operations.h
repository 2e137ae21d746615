// Collectives of an MPI group that are under way.
#pragma once

#include <cstddef>
#include <cstdint>
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

// Messages that whoever starts the operation adds; complete when they are.
class PendingTransfers final : public PendingOperation {
 public:
  PendingTransfers(const MpiGroup& group, MpiOperation described)
      : transfers(group.make_transfers()), operation(described), group_(group) {}
  void wait() override { group_.finish(transfers, operation); }

  Transfers transfers;
  MpiOperation operation;

 private:
  const MpiGroup& group_;
};

// Memory of reductions under way; given back, it serves the next.
class SpareBuffers {
 public:
  std::vector<std::byte> take(std::size_t bytes);
  void give_back(std::vector<std::byte> buffer) { spare_.push_back(std::move(buffer)); }

 private:
  std::vector<std::vector<std::byte>> spare_;
};

// Block r of `data`, cut by partition(), goes to rank r, which reduces the blocks that it got in the order of
// ranks; an all_reduce then gathers the results.
class PendingReduction final : public PendingOperation {
 public:
  // `result` holds this rank's block. The group and the buffers must outlive the operation.
  PendingReduction(const MpiGroup& group, SpareBuffers& buffers, MpiOperation operation, BufferView data,
                   void* result, ReduceOp op, bool gathers);
  void wait() override;

 private:
  Range block(int rank) const { return partition(data_.count, group_.size(), rank); }
  void receive(void* to, std::int64_t bytes, int from);
  void send(Range elements, int to);

  const MpiGroup& group_;
  SpareBuffers& buffers_;
  Transfers transfers_;
  MpiOperation operation_;
  BufferView data_;
  void* result_;
  ReduceOp op_;
  bool gathers_;
  std::vector<std::byte> received_;  // [ranks] blocks of this rank's elements
};

}  // namespace conclave
