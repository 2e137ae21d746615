#include "comm/communicator.h"

#include <exception>
#include <numeric>
#include <utility>
#include <vector>

#include "comm/base/error.h"

namespace conclave {
namespace {

bool overlap(ConstBufferView a, ConstBufferView b) {
  const auto* a_begin = static_cast<const char*>(a.data);
  const auto* b_begin = static_cast<const char*>(b.data);
  return a.count > 0 && b.count > 0 && a_begin < b_begin + b.bytes() && b_begin < a_begin + a.bytes();
}

}  // namespace

Work& Work::operator=(Work&& other) {
  if (this != &other) {
    wait();
    pending_ = std::move(other.pending_);
  }
  return *this;
}

// An error of a collective that nobody waited for must not be lost, hence a destructor that may throw.
Work::~Work() noexcept(false) {
  if (std::uncaught_exceptions() > 0) {
    // The operation may still be under way: its requests must stay valid until the process ends.
    [[maybe_unused]] PendingOperation* abandoned = pending_.release();
    return;
  }
  wait();
}

void Work::wait() {
  std::unique_ptr<PendingOperation> pending = std::move(pending_);
  if (pending == nullptr) return;
  pending->wait();
  PendingOperation& complete = *pending;
  complete.retire(std::move(pending));
}

void Communicator::check_buffer(const char* operation, const char* argument, ConstBufferView buffer) const {
  CONCLAVE_CHECK(buffer.count >= 0, "{} in group \"{}\": {} has {} elements", operation, name_, argument,
                 buffer.count);
  CONCLAVE_CHECK(buffer.data != nullptr || buffer.count == 0,
                 "{} in group \"{}\": {} is null, and should hold {} elements", operation, name_, argument,
                 buffer.count);
  const DeviceKind kind = buffer.device.kind;
  CONCLAVE_CHECK(kind == DeviceKind::kCpu || kind == device_kind_,
                 "{} in group \"{}\": {} lies in {} memory, and the group moves {} memory", operation, name_,
                 argument, name_of(kind), name_of(device_kind_));
}

void Communicator::check_pair(const char* operation, ConstBufferView send, ConstBufferView recv) const {
  check_buffer(operation, "send", send);
  check_buffer(operation, "recv", recv);
  CONCLAVE_CHECK(send.dtype == recv.dtype, "{} in group \"{}\": send holds {}, recv holds {}", operation,
                 name_, name_of(send.dtype), name_of(recv.dtype));
  CONCLAVE_CHECK(send.device == recv.device, "{} in group \"{}\": send lies in {} memory, recv in {} memory",
                 operation, name_, name_of(send.device.kind), name_of(recv.device.kind));
}

void Communicator::check_blocks(const char* operation, const char* argument, std::int64_t count,
                                const Blocks& blocks) const {
  CONCLAVE_CHECK(
      static_cast<int>(blocks.counts.size()) == size_ && static_cast<int>(blocks.offsets.size()) == size_,
      "{} in group \"{}\": {} counts for {} and {} offsets, and the group has {} ranks", operation, name_,
      blocks.counts.size(), argument, blocks.offsets.size(), size_);
  for (std::size_t peer = 0; peer < blocks.counts.size(); ++peer) {
    CONCLAVE_CHECK(blocks.counts[peer] >= 0, "{} in group \"{}\": the count of {} for rank {} is {}",
                   operation, name_, argument, peer, blocks.counts[peer]);
  }
  for (std::size_t peer = 0; peer < blocks.counts.size(); ++peer) {
    const std::int64_t begin = blocks.offsets[peer];
    const std::int64_t end = begin + blocks.counts[peer];
    CONCLAVE_CHECK(0 <= begin && end <= count,
                   "{} in group \"{}\": the block of {} for rank {} is [{}, {}), and there are {} elements",
                   operation, name_, argument, peer, begin, end, count);
  }
}

Work Communicator::all_to_all(ConstBufferView send, BufferView recv) {
  CONCLAVE_CHECK(
      send.count == recv.count && send.count % size_ == 0,
      "all_to_all in group \"{}\": send has {} elements, recv {}; both must be equal and a multiple of {}",
      name_, send.count, recv.count, size_);
  const std::vector<std::int64_t> counts(static_cast<std::size_t>(size_), send.count / size_);
  return all_to_all_v(send, counts, recv, counts);
}

Work Communicator::all_to_all_v(ConstBufferView send, std::span<const std::int64_t> send_counts,
                                BufferView recv, std::span<const std::int64_t> recv_counts) {
  const auto check_total = [&](const char* argument, std::int64_t count,
                               std::span<const std::int64_t> counts) {
    const std::int64_t total = std::reduce(counts.begin(), counts.end(), std::int64_t{0});
    CONCLAVE_CHECK(total == count,
                   "all_to_all_v in group \"{}\": {} has {} elements, and its counts add up to {}", name_,
                   argument, count, total);
  };
  check_total("send", send.count, send_counts);
  check_total("recv", recv.count, recv_counts);
  send_offsets_.resize(send_counts.size());
  std::exclusive_scan(send_counts.begin(), send_counts.end(), send_offsets_.begin(), std::int64_t{0});
  recv_offsets_.resize(recv_counts.size());
  std::exclusive_scan(recv_counts.begin(), recv_counts.end(), recv_offsets_.begin(), std::int64_t{0});
  return all_to_all_v(send, Blocks{send_counts, send_offsets_}, recv, Blocks{recv_counts, recv_offsets_});
}

Work Communicator::all_to_all_v(ConstBufferView send, Blocks send_blocks, BufferView recv,
                                Blocks recv_blocks) {
  check_pair("all_to_all_v", send, recv);
  check_blocks("all_to_all_v", "send", send.count, send_blocks);
  check_blocks("all_to_all_v", "recv", recv.count, recv_blocks);
  CONCLAVE_CHECK(!overlap(send, recv), "all_to_all_v in group \"{}\": send and recv overlap", name_);
  const auto self = static_cast<std::size_t>(rank_);
  CONCLAVE_CHECK(send_blocks.counts[self] == recv_blocks.counts[self],
                 "all_to_all_v in group \"{}\": rank {} sends {} elements to itself and expects {}", name_,
                 rank_, send_blocks.counts[self], recv_blocks.counts[self]);
  return do_all_to_all_v(send, send_blocks, recv, recv_blocks);
}

Work Communicator::all_reduce(BufferView data, ReduceOp op) {
  check_buffer("all_reduce", "data", data);
  return do_all_reduce(data, op);
}

Work Communicator::reduce_scatter(ConstBufferView send, BufferView recv, ReduceOp op) {
  check_pair("reduce_scatter", send, recv);
  CONCLAVE_CHECK(send.count == recv.count * size_,
                 "reduce_scatter in group \"{}\": send has {} elements, and {} ranks x {} of recv are {}",
                 name_, send.count, size_, recv.count, recv.count * size_);
  CONCLAVE_CHECK(!overlap(send, recv), "reduce_scatter in group \"{}\": send and recv overlap", name_);
  return do_reduce_scatter(send, recv, op);
}

Work Communicator::all_gather(ConstBufferView send, BufferView recv) {
  check_pair("all_gather", send, recv);
  CONCLAVE_CHECK(recv.count == send.count * size_,
                 "all_gather in group \"{}\": recv has {} elements, and {} ranks x {} of send are {}", name_,
                 recv.count, size_, send.count, send.count * size_);
  const bool in_place =
      send.data == static_cast<const char*>(recv.data) + static_cast<std::size_t>(rank_) * send.bytes();
  CONCLAVE_CHECK(in_place || !overlap(send, recv),
                 "all_gather in group \"{}\": send overlaps recv and is not its block {}", name_, rank_);
  return do_all_gather(send, recv);
}

Work Communicator::broadcast(BufferView data, int root) {
  check_buffer("broadcast", "data", data);
  CONCLAVE_CHECK(0 <= root && root < size_, "broadcast in group \"{}\": root {} of {} ranks", name_, root,
                 size_);
  return do_broadcast(data, root);
}

Work Communicator::barrier() { return do_barrier(); }

std::unique_ptr<Communicator> Communicator::split(int color, int key, std::string name) {
  CONCLAVE_CHECK(color >= 0, "split of group \"{}\" into \"{}\": color {} is negative", name_, name, color);
  return do_split(color, key, std::move(name));
}

void Communicator::set_paths(const PathOptions& options) {
  CONCLAVE_CHECK(options.ranks_per_node >= 0, "group \"{}\": {} ranks per node", name_,
                 options.ranks_per_node);
  do_set_paths(options);
}

}  // namespace conclave
