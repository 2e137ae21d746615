#include "comm/mpi/mpi_communicator.h"

#include <mpi.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <exception>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "comm/base/error.h"
#include "comm/base/partition.h"
#include "comm/mpi/transfers.h"
#include "comm/ordered_reduction.h"

namespace conclave {
namespace {

// Up to this count a reduction gathers everything everywhere: fewer latencies.
constexpr std::int64_t kGatheredElements = 4096;

int rank_in(MPI_Comm comm) {
  int rank = 0;
  MPI_Comm_rank(comm, &rank);
  return rank;
}

int size_of_group(MPI_Comm comm) {
  int size = 0;
  MPI_Comm_size(comm, &size);
  return size;
}

int world_rank_of_first(MPI_Comm comm) {
  MPI_Group group = MPI_GROUP_NULL;
  MPI_Group world = MPI_GROUP_NULL;
  MPI_Comm_group(comm, &group);
  MPI_Comm_group(MPI_COMM_WORLD, &world);
  const int first = 0;
  int world_rank = 0;
  MPI_Group_translate_ranks(group, 1, &first, world, &world_rank);
  MPI_Group_free(&group);
  MPI_Group_free(&world);
  return world_rank;
}

class MpiCommunicator final : public Communicator {
 public:
  // Takes over `comm`.
  MpiCommunicator(MPI_Comm comm, std::string group_name, std::shared_ptr<Watchdog> watchdog)
      : Communicator(rank_in(comm), size_of_group(comm), std::move(group_name), std::move(watchdog)),
        comm_(comm),
        noted_name_(NotedText::words_of(name())),
        first_rank_(world_rank_of_first(comm)),
        transfers_(comm) {
    MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
  }

  ~MpiCommunicator() override {
    // Freeing is collective: not while an exception ends this rank.
    if (std::uncaught_exceptions() > 0 || !MpiRuntime::active()) return;
    const WatchedWait wait(watchdog(), note(next(Operation::kFree)));
    MPI_Comm_free(&comm_);
  }

  // Throws Error if `code` is one.
  void check(int code, const MpiOperation& operation, const std::string& problem = {}) const {
    if (code == MPI_SUCCESS) return;
    std::string reason(MPI_MAX_ERROR_STRING, '\0');
    int length = 0;
    MPI_Error_string(code, reason.data(), &length);
    reason.resize(static_cast<std::size_t>(length));
    throw Error(fmt::format("{} number {} of {} bytes in group \"{}\" failed on rank {} of {}: {}{}{}",
                            name_of(operation.operation), operation.sequence, operation.bytes, name(), rank(),
                            size(), reason, problem.empty() ? "" : "; ", problem));
  }

  void finish(Transfers& transfers, const MpiOperation& operation) const {
    std::string problem;
    const WatchedWait wait(watchdog(), note(operation));
    const int code = transfers.wait(problem);
    check(code, operation, problem);
  }

 protected:
  Work do_all_to_all_v(ConstBufferView send, std::span<const std::int64_t> send_counts, BufferView recv,
                       std::span<const std::int64_t> recv_counts) override;
  Work do_all_reduce(BufferView data, ReduceOp op) override;
  Work do_reduce_scatter(ConstBufferView send, BufferView recv, ReduceOp op) override;
  Work do_all_gather(ConstBufferView send, BufferView recv) override;
  Work do_broadcast(BufferView data, int root) override;

  Work do_barrier() override {
    const std::byte nothing{};
    gather_small(&nothing, next(Operation::kBarrier));
    return {};
  }

  std::unique_ptr<Communicator> do_split(int color, int key, std::string group_name) override {
    MPI_Comm group = MPI_COMM_NULL;
    const MpiOperation operation = next(Operation::kSplit);
    const WatchedWait wait(watchdog(), note(operation));
    check(MPI_Comm_split(comm_, color, key, &group), operation);
    return std::make_unique<MpiCommunicator>(group, std::move(group_name), shared_watchdog());
  }

 private:
  // The group's next collective.
  MpiOperation next(Operation operation, std::int64_t bytes = 0) { return {operation, ++sequence_, bytes}; }
  CollectiveNote note(const MpiOperation& operation) const {
    return {operation.operation, operation.sequence, operation.bytes, noted_name_, rank(), size(),
            first_rank_};
  }

  // Calls exchange(to, from) for every other rank, neighbours first, so that no rank is
  // everybody's first target.
  template <class Exchange>
  void for_each_peer(Exchange exchange) const {
    for (int distance = 1; distance < size(); ++distance) {
      exchange((rank() + distance) % size(), (rank() - distance + size()) % size());
    }
  }

  // Gathers every rank's `operation.bytes` bytes in ceil(log2(size)) rounds (Bruck et al. 1997, "Efficient
  // algorithms for all-to-all communications in multiport message-passing systems"); block i of the result is
  // that of rank (rank() + i) % size().
  const std::byte* gather_small(const std::byte* data, const MpiOperation& operation);
  void reduce_small(BufferView data, ReduceOp op);
  void reduce_large(BufferView data, ReduceOp op);
  // Block r of `data`, cut by partition(), goes to rank r; result = the reduction of the blocks
  // that this rank got.
  void reduce_blocks(ConstBufferView data, void* result, ReduceOp op, const MpiOperation& operation);
  std::byte* scratch(std::size_t bytes);

  MPI_Comm comm_;
  NotedText::Words noted_name_;
  int first_rank_;  // rank in the world of this group's rank 0
  std::int64_t sequence_ = 0;
  Transfers transfers_;             // of the blocking operations
  std::vector<std::byte> scratch_;  // grows to the largest reduction
  std::vector<const void*> sources_;
  std::vector<std::int64_t> send_offsets_;  // of the blocks of the last all_to_all_v
  std::vector<std::int64_t> recv_offsets_;
};

class PendingTransfers final : public PendingOperation {
 public:
  PendingTransfers(const MpiCommunicator& group, MPI_Comm comm, MpiOperation described)
      : transfers(comm), operation(described), group_(group) {}
  void wait() override { group_.finish(transfers, operation); }

  Transfers transfers;
  MpiOperation operation;

 private:
  const MpiCommunicator& group_;
};

char* at(void* data, std::int64_t element, DType dtype) {
  return static_cast<char*>(data) + static_cast<std::size_t>(element) * size_of(dtype);
}
const char* at(const void* data, std::int64_t element, DType dtype) {
  return static_cast<const char*>(data) + static_cast<std::size_t>(element) * size_of(dtype);
}
std::int64_t bytes_of(std::int64_t elements, DType dtype) {
  return elements * static_cast<std::int64_t>(size_of(dtype));
}

Work MpiCommunicator::do_all_to_all_v(ConstBufferView send, std::span<const std::int64_t> send_counts,
                                      BufferView recv, std::span<const std::int64_t> recv_counts) {
  const DType dtype = send.dtype;
  auto pending = std::make_unique<PendingTransfers>(
      *this, comm_, next(Operation::kAllToAllV, bytes_of(send.count + recv.count, dtype)));
  const MpiOperation& operation = pending->operation;

  send_offsets_.resize(send_counts.size());
  std::exclusive_scan(send_counts.begin(), send_counts.end(), send_offsets_.begin(), std::int64_t{0});
  recv_offsets_.resize(recv_counts.size());
  std::exclusive_scan(recv_counts.begin(), recv_counts.end(), recv_offsets_.begin(), std::int64_t{0});
  const auto send_block = [&](std::size_t to) { return at(send.data, send_offsets_[to], dtype); };
  const auto recv_block = [&](std::size_t from) { return at(recv.data, recv_offsets_[from], dtype); };

  for_each_peer([&](int to, int from) {
    const auto source = static_cast<std::size_t>(from);
    const auto target = static_cast<std::size_t>(to);
    check(
        pending->transfers.receive(recv_block(source), bytes_of(recv_counts[source], dtype), from, operation),
        operation);
    check(pending->transfers.send(send_block(target), bytes_of(send_counts[target], dtype), to, operation),
          operation);
  });
  const auto self = static_cast<std::size_t>(rank());
  if (const std::int64_t own = send_counts[self]; own > 0) {
    std::memcpy(recv_block(self), send_block(self), static_cast<std::size_t>(bytes_of(own, dtype)));
  }
  return Work(std::move(pending));
}

Work MpiCommunicator::do_all_gather(ConstBufferView send, BufferView recv) {
  const std::int64_t bytes = static_cast<std::int64_t>(send.bytes());
  auto pending = std::make_unique<PendingTransfers>(*this, comm_, next(Operation::kAllGather, bytes));
  const auto block = [&](int r) { return at(recv.data, r * send.count, send.dtype); };
  for_each_peer([&](int to, int from) {
    check(pending->transfers.receive(block(from), bytes, from, pending->operation), pending->operation);
    check(pending->transfers.send(send.data, bytes, to, pending->operation), pending->operation);
  });
  if (bytes > 0 && block(rank()) != send.data) std::memcpy(block(rank()), send.data, send.bytes());
  return Work(std::move(pending));
}

Work MpiCommunicator::do_broadcast(BufferView data, int root) {
  constexpr std::int64_t kPieceBytes = std::int64_t{1} << 30;
  const std::int64_t bytes = static_cast<std::int64_t>(data.bytes());
  auto pending = std::make_unique<PendingTransfers>(*this, comm_, next(Operation::kBroadcast, bytes));
  for (std::int64_t offset = 0; offset < bytes; offset += kPieceBytes) {
    const int length = static_cast<int>(std::min(kPieceBytes, bytes - offset));
    check(MPI_Ibcast(static_cast<char*>(data.data) + offset, length, MPI_BYTE, root, comm_,
                     pending->transfers.add()),
          pending->operation);
  }
  return Work(std::move(pending));
}

Work MpiCommunicator::do_all_reduce(BufferView data, ReduceOp op) {
  if (size() == 1 || data.count == 0) return {};
  if (data.count <= kGatheredElements) {
    reduce_small(data, op);
  } else {
    reduce_large(data, op);
  }
  return {};
}

Work MpiCommunicator::do_reduce_scatter(ConstBufferView send, BufferView recv, ReduceOp op) {
  if (send.count == 0) return {};
  reduce_blocks(send, recv.data, op,
                next(Operation::kReduceScatter, static_cast<std::int64_t>(send.bytes())));
  return {};
}

const std::byte* MpiCommunicator::gather_small(const std::byte* data, const MpiOperation& operation) {
  const std::int64_t bytes = operation.bytes;
  std::byte* blocks = scratch(static_cast<std::size_t>(bytes * size()));
  if (bytes > 0) std::copy_n(data, bytes, blocks);
  for (int have = 1; have < size(); have *= 2) {
    const int more = std::min(have, size() - have);
    check(transfers_.receive(blocks + have * bytes, more * bytes, (rank() + have) % size(), operation),
          operation);
    check(transfers_.send(blocks, more * bytes, (rank() - have + size()) % size(), operation), operation);
    finish(transfers_, operation);
  }
  return blocks;
}

void MpiCommunicator::reduce_small(BufferView data, ReduceOp op) {
  const auto bytes = static_cast<std::int64_t>(data.bytes());
  const std::byte* blocks =
      gather_small(static_cast<const std::byte*>(data.data), next(Operation::kAllReduce, bytes));
  sources_.clear();
  for (int r = 0; r < size(); ++r) sources_.push_back(blocks + (r - rank() + size()) % size() * bytes);
  reduce_in_order(sources_, data.data, data.count, data.dtype, op);
}

void MpiCommunicator::reduce_large(BufferView data, ReduceOp op) {
  MpiOperation operation = next(Operation::kAllReduce, static_cast<std::int64_t>(data.bytes()));
  const Range own = partition(data.count, size(), rank());
  reduce_blocks(data, at(data.data, own.begin, data.dtype), op, operation);

  operation.phase = 1;
  for_each_peer([&](int to, int from) {
    const Range theirs = partition(data.count, size(), from);
    check(transfers_.receive(at(data.data, theirs.begin, data.dtype), bytes_of(theirs.size(), data.dtype),
                             from, operation),
          operation);
    check(transfers_.send(at(data.data, own.begin, data.dtype), bytes_of(own.size(), data.dtype), to,
                          operation),
          operation);
  });
  finish(transfers_, operation);
}

void MpiCommunicator::reduce_blocks(ConstBufferView data, void* result, ReduceOp op,
                                    const MpiOperation& operation) {
  const Range own = partition(data.count, size(), rank());
  const std::int64_t own_bytes = bytes_of(own.size(), data.dtype);
  std::byte* received = scratch(static_cast<std::size_t>(own_bytes * size()));

  sources_.resize(static_cast<std::size_t>(size()));
  sources_[static_cast<std::size_t>(rank())] = at(data.data, own.begin, data.dtype);
  for_each_peer([&](int to, int from) {
    std::byte* block = received + from * own_bytes;
    sources_[static_cast<std::size_t>(from)] = block;
    check(transfers_.receive(block, own_bytes, from, operation), operation);
    const Range theirs = partition(data.count, size(), to);
    check(transfers_.send(at(data.data, theirs.begin, data.dtype), bytes_of(theirs.size(), data.dtype), to,
                          operation),
          operation);
  });
  finish(transfers_, operation);
  reduce_in_order(sources_, result, own.size(), data.dtype, op);
}

std::byte* MpiCommunicator::scratch(std::size_t bytes) {
  if (scratch_.size() < bytes) scratch_.resize(bytes);
  return scratch_.data();
}

}  // namespace

std::unique_ptr<Communicator> make_mpi_world(const MpiRuntime& mpi) {
  MPI_Comm world = MPI_COMM_NULL;
  const int code = MPI_Comm_dup(MPI_COMM_WORLD, &world);
  CONCLAVE_CHECK(code == MPI_SUCCESS, "MPI_Comm_dup of the world failed with code {}", code);
  return std::make_unique<MpiCommunicator>(world, "world", mpi.watchdog());
}

}  // namespace conclave
