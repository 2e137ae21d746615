#include "comm/self/self_communicator.h"

#include <cstring>
#include <utility>

namespace conclave {
namespace {

class SelfCommunicator final : public Communicator {
 public:
  SelfCommunicator(std::string name, std::shared_ptr<Watchdog> watchdog)
      : Communicator(0, 1, std::move(name), std::move(watchdog)) {}

 protected:
  Work do_all_to_all_v(ConstBufferView send, Blocks send_blocks, BufferView recv,
                       Blocks recv_blocks) override {
    const auto element_bytes = static_cast<std::int64_t>(size_of(send.dtype));
    const std::int64_t count = send_blocks.counts[0];
    const auto* from = static_cast<const char*>(send.data) + send_blocks.offsets[0] * element_bytes;
    auto* to = static_cast<char*>(recv.data) + recv_blocks.offsets[0] * element_bytes;
    copy({from, count, send.dtype, send.device}, {to, count, recv.dtype, recv.device});
    return {};
  }
  Work do_all_reduce(BufferView, ReduceOp) override { return {}; }
  Work do_reduce_scatter(ConstBufferView send, BufferView recv, ReduceOp) override {
    copy(send, recv);
    return {};
  }
  Work do_all_gather(ConstBufferView send, BufferView recv) override {
    copy(send, recv);
    return {};
  }
  Work do_broadcast(BufferView, int) override { return {}; }
  Work do_barrier() override { return {}; }
  std::unique_ptr<Communicator> do_split(int, int, std::string name) override {
    return std::make_unique<SelfCommunicator>(std::move(name), shared_watchdog());
  }

 private:
  static void copy(ConstBufferView from, BufferView to) {
    if (from.count > 0 && from.data != to.data) std::memcpy(to.data, from.data, from.bytes());
  }
};

}  // namespace

std::unique_ptr<Communicator> make_self_communicator(std::string name) {
  return std::make_unique<SelfCommunicator>(std::move(name), std::make_shared<Watchdog>());
}

}  // namespace conclave
