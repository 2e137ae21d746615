#include "comm/nccl/nccl_collectives.h"

#include <nccl.h>

#include <utility>

#include "comm/base/error.h"
#include "comm/base/partition.h"
#include "comm/cuda/memory.h"
#include "comm/nccl/device_reduction.h"
#include "comm/nccl/nccl_group.h"
#include "comm/nccl/nccl_queue.h"

namespace conclave {
namespace {

// Up to this count a reduction gathers everything everywhere: one exchange in place of two.
constexpr std::int64_t kGatheredElements = 4096;

class PendingOnGpu final : public PendingOperation {
 public:
  PendingOnGpu(std::shared_ptr<NcclQueue> queue, std::shared_ptr<NcclQueue::Operation> operation)
      : queue_(std::move(queue)), operation_(std::move(operation)) {}
  void wait() override { queue_->hold_back_compute(*operation_); }

 private:
  std::shared_ptr<NcclQueue> queue_;
  std::shared_ptr<NcclQueue::Operation> operation_;
};

// What goes to a rank or comes from it.
struct Block {
  std::byte* data;
  std::int64_t bytes;
};

class NcclCollectives final : public DeviceCollectives {
 public:
  NcclCollectives(Communicator& host, std::shared_ptr<NcclQueue> queue)
      : queue_(std::move(queue)), group_(host, queue_->stream().device()) {
    queue_->add(group_);
  }
  ~NcclCollectives() override { queue_->remove(group_); }

  Work all_to_all_v(ConstBufferView send, Blocks send_blocks, BufferView recv, Blocks recv_blocks) override;
  Work all_reduce(BufferView data, ReduceOp op) override;
  Work reduce_scatter(ConstBufferView send, BufferView recv, ReduceOp op) override;
  Work all_gather(ConstBufferView send, BufferView recv) override;
  Work broadcast(BufferView data, int root) override;

  void progress() override { queue_->check_health(); }
  std::string describe() const override { return nccl_description(); }

 private:
  // Puts what enqueue(note) enqueues into the queue.
  template <class Enqueue>
  Work start(Operation operation, std::int64_t bytes, Enqueue enqueue) {
    const CollectiveNote note = group_.next(operation, bytes);
    return Work(std::make_unique<PendingOnGpu>(queue_, queue_->run(group_, note, [&] { enqueue(note); })));
  }

  // sent(r) goes to rank r, received(r) comes from it, for all other ranks.
  template <class Sent, class Received>
  void exchange(const CollectiveNote& note, Sent sent, Received received);

  // The sum of every rank's block of `data` that this rank shall have, into `result`.
  void reduce_own_block(const CollectiveNote& note, ConstBufferView data, std::byte* scratch, void* result,
                        ReduceOp op);

  Block block(ConstBufferView data, std::int64_t begin, std::int64_t elements) const {
    const auto element_bytes = static_cast<std::int64_t>(size_of(data.dtype));
    // NCCL's functions and the kernels that only read take void* like the others.
    auto* first = static_cast<std::byte*>(const_cast<void*>(data.data));
    return {first + begin * element_bytes, elements * element_bytes};
  }
  Block part_of_rank(ConstBufferView data, int rank) const {
    const Range part = partition(data.count, group_.size(), rank);
    return block(data, part.begin, part.size());
  }

  cudaStream_t stream() const { return static_cast<cudaStream_t>(queue_->stream().handle()); }

  std::shared_ptr<NcclQueue> queue_;
  NcclGroup group_;
};

template <class Sent, class Received>
void NcclCollectives::exchange(const CollectiveNote& note, Sent sent, Received received) {
  // What was begun as a group must be ended as one, whatever happens between.
  ncclResult_t failure = ncclSuccess;
  const auto keep = [&](ncclResult_t result) {
    if (failure == ncclSuccess && result != ncclInProgress) failure = result;
  };
  keep(ncclGroupStart());
  for (int distance = 1; distance < group_.size(); ++distance) {
    const int to = (group_.rank() + distance) % group_.size();
    const int from = (group_.rank() - distance + group_.size()) % group_.size();
    if (const Block out = sent(to); out.bytes > 0) {
      keep(ncclSend(out.data, static_cast<std::size_t>(out.bytes), ncclUint8, to, group_.comm(), stream()));
    }
    if (const Block in = received(from); in.bytes > 0) {
      keep(ncclRecv(in.data, static_cast<std::size_t>(in.bytes), ncclUint8, from, group_.comm(), stream()));
    }
  }
  const ncclResult_t ended = ncclGroupEnd();
  group_.check(failure != ncclSuccess ? failure : ended, note);
}

Work NcclCollectives::all_to_all_v(ConstBufferView send, Blocks send_blocks, BufferView recv,
                                   Blocks recv_blocks) {
  const auto sent = [&](int rank) {
    const auto r = static_cast<std::size_t>(rank);
    return block(send, send_blocks.offsets[r], send_blocks.counts[r]);
  };
  const auto received = [&](int rank) {
    const auto r = static_cast<std::size_t>(rank);
    return block(recv, recv_blocks.offsets[r], recv_blocks.counts[r]);
  };
  std::int64_t bytes = 0;
  for (int rank = 0; rank < group_.size(); ++rank) bytes += sent(rank).bytes + received(rank).bytes;
  return start(Operation::kAllToAllV, bytes, [&](const CollectiveNote& note) {
    const Block own = sent(group_.rank());
    cuda::copy(queue_->stream(), received(group_.rank()).data, own.data, static_cast<std::size_t>(own.bytes));
    exchange(note, sent, received);
  });
}

void NcclCollectives::reduce_own_block(const CollectiveNote& note, ConstBufferView data, std::byte* scratch,
                                       void* result, ReduceOp op) {
  const Block own = part_of_rank(data, group_.rank());
  exchange(
      note, [&](int rank) { return part_of_rank(data, rank); },
      [&](int rank) {
        return Block{scratch + rank * own.bytes, own.bytes};
      });
  reduce_in_order(queue_->stream(), {.received = scratch,
                                     .mine = own.data,
                                     .result = result,
                                     .count = own.bytes / static_cast<std::int64_t>(size_of(data.dtype)),
                                     .ranks = group_.size(),
                                     .own = group_.rank(),
                                     .dtype = data.dtype,
                                     .op = op});
}

Work NcclCollectives::all_reduce(BufferView data, ReduceOp op) {
  if (data.count == 0) return {};
  const auto bytes = static_cast<std::int64_t>(data.bytes());
  const bool gathers_all = data.count <= kGatheredElements;
  const Block own = gathers_all ? block(data, 0, data.count) : part_of_rank(data, group_.rank());
  std::byte* scratch = queue_->scratch(static_cast<std::size_t>(own.bytes * group_.size()));
  if (gathers_all) {
    return start(Operation::kAllReduce, bytes, [&](const CollectiveNote& note) {
      group_.check(ncclAllGather(data.data, scratch, data.bytes(), ncclUint8, group_.comm(), stream()), note);
      reduce_in_order(queue_->stream(), {.received = scratch,
                                         .mine = data.data,
                                         .result = data.data,
                                         .count = data.count,
                                         .ranks = group_.size(),
                                         .own = group_.rank(),
                                         .dtype = data.dtype,
                                         .op = op});
    });
  }
  return start(Operation::kAllReduce, bytes, [&](const CollectiveNote& note) {
    reduce_own_block(note, data, scratch, own.data, op);
    exchange(
        note, [&](int) { return own; }, [&](int rank) { return part_of_rank(data, rank); });
  });
}

Work NcclCollectives::reduce_scatter(ConstBufferView send, BufferView recv, ReduceOp op) {
  if (send.count == 0) return {};
  std::byte* scratch = queue_->scratch(send.bytes());
  return start(Operation::kReduceScatter, static_cast<std::int64_t>(send.bytes()),
               [&](const CollectiveNote& note) { reduce_own_block(note, send, scratch, recv.data, op); });
}

Work NcclCollectives::all_gather(ConstBufferView send, BufferView recv) {
  if (send.count == 0) return {};
  return start(
      Operation::kAllGather, static_cast<std::int64_t>(send.bytes()), [&](const CollectiveNote& note) {
        group_.check(ncclAllGather(send.data, recv.data, send.bytes(), ncclUint8, group_.comm(), stream()),
                     note);
      });
}

Work NcclCollectives::broadcast(BufferView data, int root) {
  if (data.count == 0) return {};
  return start(
      Operation::kBroadcast, static_cast<std::int64_t>(data.bytes()), [&](const CollectiveNote& note) {
        group_.check(
            ncclBroadcast(data.data, data.data, data.bytes(), ncclUint8, root, group_.comm(), stream()),
            note);
      });
}

}  // namespace

bool nccl_is_built_in() { return true; }

std::string nccl_description() {
  int version = 0;
  const ncclResult_t result = ncclGetVersion(&version);
  CONCLAVE_CHECK(result == ncclSuccess, "NCCL can't say its version: {}", ncclGetErrorString(result));
  return fmt::format("NCCL {}.{}.{}", version / 10000, version % 10000 / 100, version % 100);
}

std::shared_ptr<NcclQueue> make_nccl_queue(cuda::Stream& compute) {
  return std::make_shared<NcclQueue>(compute);
}

std::unique_ptr<DeviceCollectives> make_nccl_collectives(Communicator& host,
                                                         std::shared_ptr<NcclQueue> queue) {
  return std::make_unique<NcclCollectives>(host, std::move(queue));
}

}  // namespace conclave
