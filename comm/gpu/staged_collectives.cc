#include <utility>

#include "comm/gpu/device_collectives.h"

namespace conclave {
namespace {

class StagedCollectives final : public DeviceCollectives {
 public:
  StagedCollectives(Communicator& host, cuda::Stream& compute, std::string reason)
      : host_(host), compute_(compute), reason_(std::move(reason)) {}

  Work all_to_all_v(ConstBufferView send, Blocks send_blocks, BufferView recv, Blocks recv_blocks) override {
    compute_.synchronize();
    return host_.all_to_all_v(on_host(send), send_blocks, on_host(recv), recv_blocks);
  }
  Work all_reduce(BufferView data, ReduceOp op) override {
    compute_.synchronize();
    return host_.all_reduce(on_host(data), op);
  }
  Work reduce_scatter(ConstBufferView send, BufferView recv, ReduceOp op) override {
    compute_.synchronize();
    return host_.reduce_scatter(on_host(send), on_host(recv), op);
  }
  Work all_gather(ConstBufferView send, BufferView recv) override {
    compute_.synchronize();
    return host_.all_gather(on_host(send), on_host(recv));
  }
  Work broadcast(BufferView data, int root) override {
    compute_.synchronize();
    return host_.broadcast(on_host(data), root);
  }
  std::string describe() const override {
    return host_.describe_paths() + " through the host's memory: " + reason_;
  }

 private:
  template <class View>
  static View on_host(View buffer) {
    buffer.device = {};
    return buffer;
  }

  Communicator& host_;
  cuda::Stream& compute_;
  std::string reason_;
};

}  // namespace

std::unique_ptr<DeviceCollectives> make_staged_collectives(Communicator& host, cuda::Stream& compute,
                                                           std::string reason) {
  return std::make_unique<StagedCollectives>(host, compute, std::move(reason));
}

}  // namespace conclave
