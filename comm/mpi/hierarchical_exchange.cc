#include "comm/mpi/hierarchical_exchange.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace conclave {
namespace {

void append(std::vector<std::byte>& to, const std::byte* from, std::int64_t bytes) {
  to.insert(to.end(), from, from + bytes);
}

std::int64_t& at(std::vector<std::int64_t>& values, int index) {
  return values[static_cast<std::size_t>(index)];
}

}  // namespace

HierarchicalExchange::HierarchicalExchange(NodeMap map, int rank, std::unique_ptr<Communicator> node)
    : map_(std::move(map)),
      here_(map_.node_of_rank[static_cast<std::size_t>(rank)]),
      place_(map_.place_of_rank[static_cast<std::size_t>(rank)]),
      node_(std::move(node)) {}

int HierarchicalExchange::carrier(int from, int to) const {
  const std::vector<int>& ranks = members(from);
  return ranks[static_cast<std::size_t>(to) % ranks.size()];
}

bool HierarchicalExchange::carries(int place, int node) const {
  return node != here_ && carrier(here_, node) == members(here_)[static_cast<std::size_t>(place)];
}

std::int64_t HierarchicalExchange::sent(int place, int rank) const {
  const std::size_t ranks = map_.node_of_rank.size();
  return counts_[2 * ranks * static_cast<std::size_t>(place) + static_cast<std::size_t>(rank)];
}

std::int64_t HierarchicalExchange::got(int place, int rank) const {
  const std::size_t ranks = map_.node_of_rank.size();
  return counts_[2 * ranks * static_cast<std::size_t>(place) + ranks + static_cast<std::size_t>(rank)];
}

void HierarchicalExchange::run(const std::byte* send, const Blocks& send_blocks, std::byte* recv,
                               const Blocks& recv_blocks, const Between& between) {
  share_counts(send_blocks.counts, recv_blocks.counts);
  gather(send, send_blocks);
  pack_messages(recv, recv_blocks);
  between(messages_);
  scatter(recv, recv_blocks);
}

void HierarchicalExchange::share_counts(std::span<const std::int64_t> send_bytes,
                                        std::span<const std::int64_t> recv_bytes) {
  own_counts_.assign(send_bytes.begin(), send_bytes.end());
  own_counts_.insert(own_counts_.end(), recv_bytes.begin(), recv_bytes.end());
  counts_.resize(own_counts_.size() * static_cast<std::size_t>(places()));
  node_->all_gather(buffer_view(std::span<const std::int64_t>(own_counts_)), buffer_view(std::span(counts_)));
}

// To each rank of the node: what is for itself, then what is for the nodes that it carries.
void HierarchicalExchange::gather(const std::byte* send, const Blocks& send_blocks) {
  const auto append_block = [&](int rank) {
    const auto r = static_cast<std::size_t>(rank);
    append(outgoing_, send + send_blocks.offsets[r], send_blocks.counts[r]);
  };
  outgoing_.clear();
  send_counts_.assign(static_cast<std::size_t>(places()), 0);
  recv_counts_.assign(static_cast<std::size_t>(places()), 0);
  for (int place = 0; place < places(); ++place) {
    const std::size_t before = outgoing_.size();
    append_block(members(here_)[static_cast<std::size_t>(place)]);
    at(recv_counts_, place) = sent(place, members(here_)[static_cast<std::size_t>(place_)]);
    for (int node = 0; node < nodes(); ++node) {
      if (carries(place, node)) std::ranges::for_each(members(node), append_block);
      if (!carries(place_, node)) continue;
      for (const int rank : members(node)) at(recv_counts_, place) += sent(place, rank);
    }
    at(send_counts_, place) = static_cast<std::int64_t>(outgoing_.size() - before);
  }
  exchange_inside();
}

void HierarchicalExchange::pack_messages(std::byte* recv, const Blocks& recv_blocks) {
  messages_.clear();
  for (int node = 0; node < nodes(); ++node) {
    if (!carries(place_, node)) continue;
    Message& message = messages_.emplace_back(Message{carrier(node, here_), {}, {}});
    std::int64_t bytes = 0;
    for (int place = 0; place < places(); ++place) {
      for (const int rank : members(node)) bytes += got(place, rank);
    }
    message.received.resize(static_cast<std::size_t>(bytes));
  }

  const std::byte* block = incoming_.data();
  for (int place = 0; place < places(); ++place) {
    const auto source = static_cast<std::size_t>(members(here_)[static_cast<std::size_t>(place)]);
    std::copy_n(block, recv_blocks.counts[source], recv + recv_blocks.offsets[source]);
    block += recv_blocks.counts[source];
    auto message = messages_.begin();
    for (int node = 0; node < nodes(); ++node) {
      if (!carries(place_, node)) continue;
      for (const int rank : members(node)) {
        append(message->sent, block, sent(place, rank));
        block += sent(place, rank);
      }
      ++message;
    }
  }
}

// To each rank of the node: what came for it from the nodes that this rank carries.
void HierarchicalExchange::scatter(std::byte* recv, const Blocks& recv_blocks) {
  outgoing_.clear();
  send_counts_.assign(static_cast<std::size_t>(places()), 0);
  recv_counts_.assign(static_cast<std::size_t>(places()), 0);
  for (int place = 0; place < places(); ++place) {
    const std::size_t before = outgoing_.size();
    auto message = messages_.cbegin();
    for (int node = 0; node < nodes(); ++node) {
      if (!carries(place_, node)) continue;
      const std::byte* block = message->received.data();  // by source, then by place here
      for (const int source : members(node)) {
        for (int target = 0; target < places(); ++target) {
          if (target == place) append(outgoing_, block, got(target, source));
          block += got(target, source);
        }
      }
      ++message;
    }
    at(send_counts_, place) = static_cast<std::int64_t>(outgoing_.size() - before);
    for (int node = 0; node < nodes(); ++node) {
      if (!carries(place, node)) continue;
      for (const int source : members(node)) at(recv_counts_, place) += got(place_, source);
    }
  }
  exchange_inside();

  const std::byte* block = incoming_.data();
  for (int place = 0; place < places(); ++place) {
    for (int node = 0; node < nodes(); ++node) {
      if (!carries(place, node)) continue;
      for (const int rank : members(node)) {
        const auto source = static_cast<std::size_t>(rank);
        std::copy_n(block, recv_blocks.counts[source], recv + recv_blocks.offsets[source]);
        block += recv_blocks.counts[source];
      }
    }
  }
}

void HierarchicalExchange::exchange_inside() {
  incoming_.resize(
      static_cast<std::size_t>(std::reduce(recv_counts_.begin(), recv_counts_.end(), std::int64_t{0})));
  const auto bytes_of = [](std::vector<std::byte>& bytes) {
    return BufferView{bytes.data(), static_cast<std::int64_t>(bytes.size()), DType::kUInt8, {}};
  };
  node_->all_to_all_v(bytes_of(outgoing_), send_counts_, bytes_of(incoming_), recv_counts_);
}

}  // namespace conclave
