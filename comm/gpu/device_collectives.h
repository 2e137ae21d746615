// The collectives of a group over memory of its ranks' GPUs. Arguments are those of the functions of the same
// names in comm/communicator.h, checked there.
#pragma once

#include <memory>
#include <string>

#include "comm/communicator.h"
#include "comm/cuda/stream.h"

namespace conclave {

class DeviceCollectives {
 public:
  virtual ~DeviceCollectives() = default;

  virtual Work all_to_all_v(ConstBufferView send, Blocks send_blocks, BufferView recv,
                            Blocks recv_blocks) = 0;
  virtual Work all_reduce(BufferView data, ReduceOp op) = 0;
  virtual Work reduce_scatter(ConstBufferView send, BufferView recv, ReduceOp op) = 0;
  virtual Work all_gather(ConstBufferView send, BufferView recv) = 0;
  virtual Work broadcast(BufferView data, int root) = 0;

  virtual void progress() {}
  virtual std::string describe() const = 0;  // which way the data takes
};

// A group of one: copies in the stream.
std::unique_ptr<DeviceCollectives> make_local_collectives(cuda::Stream& compute);

// After waiting for the stream `host` moves the memory, which host and GPU share: the ranks may have one GPU.
// `reason` says why it is done so.
std::unique_ptr<DeviceCollectives> make_staged_collectives(Communicator& host, cuda::Stream& compute,
                                                           std::string reason);

}  // namespace conclave
