#include "comm/cuda/memory.h"
#include "comm/gpu/device_collectives.h"

namespace conclave {
namespace {

class LocalCollectives final : public DeviceCollectives {
 public:
  explicit LocalCollectives(cuda::Stream& compute) : compute_(compute) {}

  Work all_to_all_v(ConstBufferView send, Blocks send_blocks, BufferView recv, Blocks recv_blocks) override {
    const std::size_t element_bytes = size_of(send.dtype);
    const auto at = [&](std::int64_t element) { return static_cast<std::size_t>(element) * element_bytes; };
    cuda::copy(compute_, static_cast<std::byte*>(recv.data) + at(recv_blocks.offsets[0]),
               static_cast<const std::byte*>(send.data) + at(send_blocks.offsets[0]),
               at(send_blocks.counts[0]));
    return {};
  }
  Work all_reduce(BufferView, ReduceOp) override { return {}; }
  Work reduce_scatter(ConstBufferView send, BufferView recv, ReduceOp) override {
    cuda::copy(compute_, recv.data, send.data, send.bytes());
    return {};
  }
  Work all_gather(ConstBufferView send, BufferView recv) override {
    if (send.data != recv.data) cuda::copy(compute_, recv.data, send.data, send.bytes());
    return {};
  }
  Work broadcast(BufferView, int) override { return {}; }
  std::string describe() const override { return "one GPU"; }

 private:
  cuda::Stream& compute_;
};

}  // namespace

std::unique_ptr<DeviceCollectives> make_local_collectives(cuda::Stream& compute) {
  return std::make_unique<LocalCollectives>(compute);
}

}  // namespace conclave
