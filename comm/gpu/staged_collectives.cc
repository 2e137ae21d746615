#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "comm/cuda/memory.h"
#include "comm/gpu/device_collectives.h"

namespace conclave {
namespace {

// Pinned memory that one operation after the other uses.
struct Slot {
  cuda::Memory memory{nullptr, nullptr};
  std::size_t bytes = 0;
  cuda::Event emptied;  // what the last operation brought has left for the GPU
  bool is_taken = false;
};

// What an operation brings, on its way to the GPU.
struct Upload {
  void* to;
  const std::byte* from;
  std::size_t bytes;
};

class StagedOperation final : public PendingOperation {
 public:
  StagedOperation(const cuda::Stream& compute, Slot& slot, Work on_host, std::vector<Upload> uploads)
      : compute_(compute),
        slot_(slot),
        on_host_(std::make_unique<Work>(std::move(on_host))),
        uploads_(std::move(uploads)) {}
  void wait() override {
    on_host_->wait();
    for (const Upload& upload : uploads_) cuda::copy(compute_, upload.to, upload.from, upload.bytes);
    slot_.emptied.record(compute_);
    slot_.is_taken = false;
  }

 private:
  const cuda::Stream& compute_;
  Slot& slot_;
  std::unique_ptr<Work> on_host_;
  std::vector<Upload> uploads_;
};

// Both sides of an operation in pinned memory: `host` may hand it to a network, which a GPU's managed memory,
// whose pages travel, is not for.
class StagedCollectives final : public DeviceCollectives {
 public:
  StagedCollectives(Communicator& host, cuda::Stream& compute, std::string reason)
      : host_(host), compute_(compute), reason_(std::move(reason)) {}

  Work all_to_all_v(ConstBufferView send, Blocks send_blocks, BufferView recv, Blocks recv_blocks) override {
    const auto element_bytes = size_of(send.dtype);
    const std::int64_t sent = sum_of(send_blocks.counts);
    const std::int64_t received = sum_of(recv_blocks.counts);
    Slot& slot = take_slot(static_cast<std::size_t>(sent + received) * element_bytes);
    std::byte* from = slot.memory.get();
    for_each_block(send_blocks, element_bytes, [&](std::size_t offset, std::size_t bytes) {
      cuda::copy(compute_, from, static_cast<const std::byte*>(send.data) + offset, bytes);
      from += bytes;
    });
    compute_.synchronize();
    std::vector<Upload> uploads;
    std::byte* arrived = from;
    for_each_block(recv_blocks, element_bytes, [&](std::size_t offset, std::size_t bytes) {
      uploads.push_back({static_cast<std::byte*>(recv.data) + offset, arrived, bytes});
      arrived += bytes;
    });
    Work work = host_.all_to_all_v(ConstBufferView{slot.memory.get(), sent, send.dtype}, send_blocks.counts,
                                   BufferView{from, received, recv.dtype}, recv_blocks.counts);
    return pending(slot, std::move(work), std::move(uploads));
  }
  Work all_reduce(BufferView data, ReduceOp op) override {
    return in_place(data, [&](BufferView staged) { return host_.all_reduce(staged, op); });
  }
  Work broadcast(BufferView data, int root) override {
    return in_place(data, [&](BufferView staged) { return host_.broadcast(staged, root); });
  }
  Work reduce_scatter(ConstBufferView send, BufferView recv, ReduceOp op) override {
    return apart(send, recv, [&](ConstBufferView staged_send, BufferView staged_recv) {
      return host_.reduce_scatter(staged_send, staged_recv, op);
    });
  }
  Work all_gather(ConstBufferView send, BufferView recv) override {
    return apart(send, recv, [&](ConstBufferView staged_send, BufferView staged_recv) {
      return host_.all_gather(staged_send, staged_recv);
    });
  }
  std::string describe() const override {
    return host_.describe_paths() + " through the host's memory: " + reason_;
  }

 private:
  static std::int64_t sum_of(std::span<const std::int64_t> counts) {
    std::int64_t sum = 0;
    for (const std::int64_t count : counts) sum += count;
    return sum;
  }
  // Calls function(offset, bytes) for what goes to each rank or comes from it.
  template <class Function>
  static void for_each_block(Blocks blocks, std::size_t element_bytes, Function function) {
    for (std::size_t rank = 0; rank < blocks.counts.size(); ++rank) {
      if (blocks.counts[rank] == 0) continue;
      function(static_cast<std::size_t>(blocks.offsets[rank]) * element_bytes,
               static_cast<std::size_t>(blocks.counts[rank]) * element_bytes);
    }
  }

  template <class Start>
  Work in_place(BufferView data, Start start) {
    Slot& slot = take_slot(data.bytes());
    std::byte* staged = slot.memory.get();
    cuda::copy(compute_, staged, data.data, data.bytes());
    compute_.synchronize();
    Work work = start(BufferView{staged, data.count, data.dtype});
    return pending(slot, std::move(work), {{data.data, staged, data.bytes()}});
  }
  template <class Start>
  Work apart(ConstBufferView send, BufferView recv, Start start) {
    Slot& slot = take_slot(send.bytes() + recv.bytes());
    std::byte* staged_send = slot.memory.get();
    std::byte* staged_recv = staged_send + send.bytes();
    cuda::copy(compute_, staged_send, send.data, send.bytes());
    compute_.synchronize();
    Work work = start(ConstBufferView{staged_send, send.count, send.dtype},
                      BufferView{staged_recv, recv.count, recv.dtype});
    return pending(slot, std::move(work), {{recv.data, staged_recv, recv.bytes()}});
  }

  Work pending(Slot& slot, Work on_host, std::vector<Upload> uploads) {
    return Work(std::make_unique<StagedOperation>(compute_, slot, std::move(on_host), std::move(uploads)));
  }

  // One that nobody uses any more, if there is one that is large enough.
  Slot& take_slot(std::size_t bytes) {
    for (const std::unique_ptr<Slot>& slot : slots_) {
      if (slot->is_taken || slot->bytes < bytes || !slot->emptied.is_done()) continue;
      slot->is_taken = true;
      return *slot;
    }
    slots_.push_back(std::make_unique<Slot>());
    Slot& slot = *slots_.back();
    slot.memory = cuda::allocate_pinned(bytes);
    slot.bytes = bytes;
    slot.is_taken = true;
    return slot;
  }

  Communicator& host_;
  cuda::Stream& compute_;
  std::string reason_;
  std::vector<std::unique_ptr<Slot>> slots_;
};

}  // namespace

std::unique_ptr<DeviceCollectives> make_staged_collectives(Communicator& host, cuda::Stream& compute,
                                                           std::string reason) {
  return std::make_unique<StagedCollectives>(host, compute, std::move(reason));
}

}  // namespace conclave
