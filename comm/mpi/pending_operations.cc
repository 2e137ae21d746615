#include "comm/mpi/pending_operations.h"

#include "comm/ordered_reduction.h"

namespace conclave {

void PendingReduction::start(MpiOperation operation, BufferView data, void* result, ReduceOp op,
                             bool gathers) {
  operation_ = operation;
  data_ = data;
  result_ = result;
  op_ = op;
  gathers_ = gathers;
  const std::int64_t own_bytes = bytes_of(block(group_.rank()).size(), data_.dtype);
  const auto all_bytes = static_cast<std::size_t>(own_bytes * group_.size());
  if (received_.size() < all_bytes) received_.resize(all_bytes);
  group_.for_each_peer([&](int to, int from) {
    receive(received_.data() + from * own_bytes, own_bytes, from);
    send(block(to), to);
  });
}

void PendingReduction::wait() {
  group_.finish(transfers_, operation_);
  const Range own = block(group_.rank());
  sources_.clear();
  for (int rank = 0; rank < group_.size(); ++rank) {
    sources_.push_back(rank == group_.rank() ? at(data_.data, own.begin, data_.dtype)
                                             : at(received_.data(), rank * own.size(), data_.dtype));
  }
  reduce_in_order(sources_, result_, own.size(), data_.dtype, op_);
  if (!gathers_) return;

  operation_.phase = 1;
  group_.for_each_peer([&](int to, int from) {
    const Range theirs = block(from);
    receive(at(data_.data, theirs.begin, data_.dtype), bytes_of(theirs.size(), data_.dtype), from);
    send(own, to);
  });
  group_.finish(transfers_, operation_);
}

void PendingReduction::receive(void* to, std::int64_t bytes, int from) {
  group_.check(transfers_.receive(to, bytes, from, operation_), operation_);
}

void PendingReduction::send(Range elements, int to) {
  group_.check(transfers_.send(at(data_.data, elements.begin, data_.dtype),
                               bytes_of(elements.size(), data_.dtype), to, operation_),
               operation_);
}

}  // namespace conclave
