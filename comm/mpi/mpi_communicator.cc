#include "comm/mpi/mpi_communicator.h"

#include <mpi.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <exception>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "comm/base/error.h"
#include "comm/base/partition.h"
#include "comm/mpi/hierarchical_exchange.h"
#include "comm/mpi/mpi_group.h"
#include "comm/mpi/node_channels.h"
#include "comm/mpi/nodes.h"
#include "comm/mpi/pending_operations.h"
#include "comm/mpi/transfers.h"
#include "comm/ordered_reduction.h"

namespace conclave {
namespace {

// Up to this count a reduction gathers everything everywhere: fewer latencies.
constexpr std::int64_t kGatheredElements = 4096;

int size_of_group(MPI_Comm comm) {
  int size = 0;
  MPI_Comm_size(comm, &size);
  return size;
}

int rank_in(MPI_Comm comm) {
  int rank = 0;
  MPI_Comm_rank(comm, &rank);
  return rank;
}

// What a group hands on to those that are split from it.
struct Site {
  std::shared_ptr<ChannelSet> channels = std::make_shared<ChannelSet>();
  PathOptions paths;
  int node = 0;  // of this rank, by find_node()
};

class MpiCommunicator final : public Communicator {
 public:
  // Takes over `comm`. Collective over it.
  MpiCommunicator(MPI_Comm comm, std::string group_name, std::shared_ptr<Watchdog> watchdog, Site site)
      : Communicator(rank_in(comm), size_of_group(comm), std::move(group_name), std::move(watchdog)),
        comm_(comm),
        group_(comm, name(), shared_watchdog(), site.channels),
        site_(std::move(site)) {
    MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
    open_paths();
  }

  ~MpiCommunicator() override {
    // Freeing is collective: not while an exception ends this rank.
    if (std::uncaught_exceptions() > 0 || !MpiRuntime::active()) return;
    hierarchy_.reset();
    const WatchedWait wait(watchdog(), group_.note(group_.next(Operation::kFree)));
    group_.use_channels(nullptr);
    MPI_Comm_free(&comm_);
  }

  std::string describe_paths() const override;
  void progress() override {
    if (size() > 1) transfers_->progress();
  }

 protected:
  Work do_all_to_all_v(ConstBufferView send, Blocks send_blocks, BufferView recv,
                       Blocks recv_blocks) override;
  Work do_all_reduce(BufferView data, ReduceOp op) override;
  Work do_reduce_scatter(ConstBufferView send, BufferView recv, ReduceOp op) override;
  Work do_all_gather(ConstBufferView send, BufferView recv) override;
  Work do_broadcast(BufferView data, int root) override;

  Work do_barrier() override {
    const std::byte nothing{};
    gather_small(&nothing, group_.next(Operation::kBarrier));
    return {};
  }

  std::unique_ptr<Communicator> do_split(int color, int key, std::string group_name) override {
    MPI_Comm group = MPI_COMM_NULL;
    const MpiOperation operation = group_.next(Operation::kSplit);
    const WatchedWait wait(watchdog(), group_.note(operation));
    group_.check(MPI_Comm_split(comm_, color, key, &group), operation);
    return std::make_unique<MpiCommunicator>(group, std::move(group_name), shared_watchdog(), site_);
  }

  void do_set_paths(const PathOptions& options) override {
    if (options == site_.paths) return;
    const WatchedWait wait(watchdog(), group_.note(group_.next(Operation::kSplit)));
    site_.paths = options;
    site_.node = find_node(comm_, options.ranks_per_node);
    open_paths();
  }

 private:
  // Collective: makes what site_ asks for.
  void open_paths();
  void exchange_between_nodes(std::span<HierarchicalExchange::Message> messages);

  // Gathers every rank's `operation.bytes` bytes in ceil(log2(size)) rounds (Bruck et al. 1997, "Efficient
  // algorithms for all-to-all communications in multiport message-passing systems"); block i of the result is
  // that of rank (rank() + i) % size().
  const std::byte* gather_small(const std::byte* data, const MpiOperation& operation);
  void reduce_small(BufferView data, ReduceOp op);
  std::unique_ptr<PendingTransfers> start_transfers(Operation operation, std::int64_t bytes);
  std::byte* scratch(std::size_t bytes);

  MPI_Comm comm_;
  MpiGroup group_;
  Site site_;
  int nodes_ = 1;
  bool shares_memory_ = false;  // on every node where the group has several ranks
  std::unique_ptr<HierarchicalExchange> hierarchy_;
  std::optional<Transfers> transfers_;  // of the blocking operations
  std::vector<std::byte> scratch_;      // grows to the largest gather_small()
  PendingTransfers::Pool pending_transfers_{group_};
  PendingReduction::Pool reductions_{group_};
  std::vector<const void*> sources_;
};

void MpiCommunicator::open_paths() {
  group_.use_channels(nullptr);
  hierarchy_.reset();
  nodes_ = 1;
  shares_memory_ = false;
  if (size() > 1) {
    NodeMap map = map_nodes(comm_, site_.node);
    nodes_ = static_cast<int>(map.nodes.size());
    const bool has_neighbours =
        map.nodes[static_cast<std::size_t>(map.node_of_rank[static_cast<std::size_t>(rank())])].size() > 1;
    if (site_.paths.path != Path::kMpi) {
      group_.use_channels(NodeChannels::open(comm_, site_.node, site_.channels));
      int missing = has_neighbours && !group_.has_channels() ? 1 : 0;
      MPI_Allreduce(MPI_IN_PLACE, &missing, 1, MPI_INT, MPI_SUM, comm_);
      shares_memory_ = missing == 0 && nodes_ < size();
      CONCLAVE_CHECK(missing == 0 || site_.paths.path == Path::kAuto,
                     "group \"{}\": {} of {} ranks got no shared memory on their node (is /dev/shm full?); "
                     "parallel.exchange auto or mpi does without",
                     name(), missing, size());
    }
    if (site_.paths.path == Path::kHierarchical && nodes_ > 1) {
      Site node_site = site_;
      node_site.paths.path = Path::kAuto;
      MPI_Comm node = MPI_COMM_NULL;
      group_.check(MPI_Comm_split(comm_, site_.node, rank(), &node), group_.next(Operation::kSplit));
      hierarchy_ = std::make_unique<HierarchicalExchange>(
          std::move(map), rank(),
          std::make_unique<MpiCommunicator>(node, name() + "/node", shared_watchdog(), node_site));
    }
  }
  pending_transfers_.clear();
  reductions_.clear();
  transfers_.emplace(group_.make_transfers());
}

std::unique_ptr<PendingTransfers> MpiCommunicator::start_transfers(Operation operation, std::int64_t bytes) {
  auto pending = pending_transfers_.take();
  pending->operation = group_.next(operation, bytes);
  return pending;
}

std::string MpiCommunicator::describe_paths() const {
  if (size() == 1) return "one process";
  if (site_.paths.path == Path::kMpi) return "MPI";
  const char* inside = shares_memory_ ? "shared memory" : "MPI";
  if (nodes_ == 1) return inside;
  if (hierarchy_ != nullptr) {
    return fmt::format("hierarchical over {} nodes: {} inside, one MPI message for each pair of nodes",
                       nodes_, inside);
  }
  if (nodes_ == size()) return "MPI";
  return fmt::format("{} inside {} nodes, MPI between them", inside, nodes_);
}

void MpiCommunicator::exchange_between_nodes(std::span<HierarchicalExchange::Message> messages) {
  std::int64_t bytes = 0;
  for (const auto& message : messages) bytes += static_cast<std::int64_t>(message.sent.size());
  const MpiOperation operation = group_.next(Operation::kAllToAllV, bytes);
  for (auto& [peer, sent, received] : messages) {
    group_.check(
        transfers_->receive(received.data(), static_cast<std::int64_t>(received.size()), peer, operation),
        operation);
    group_.check(transfers_->send(sent.data(), static_cast<std::int64_t>(sent.size()), peer, operation),
                 operation);
  }
  group_.finish(*transfers_, operation);
}

Work MpiCommunicator::do_all_to_all_v(ConstBufferView send, Blocks send_blocks, BufferView recv,
                                      Blocks recv_blocks) {
  const DType dtype = send.dtype;
  if (hierarchy_ != nullptr) {
    const auto in_bytes = [&](std::span<const std::int64_t> elements) {
      std::vector<std::int64_t> bytes(elements.begin(), elements.end());
      for (std::int64_t& count : bytes) count = bytes_of(count, dtype);
      return bytes;
    };
    const std::vector<std::int64_t> send_counts = in_bytes(send_blocks.counts);
    const std::vector<std::int64_t> send_offsets = in_bytes(send_blocks.offsets);
    const std::vector<std::int64_t> recv_counts = in_bytes(recv_blocks.counts);
    const std::vector<std::int64_t> recv_offsets = in_bytes(recv_blocks.offsets);
    hierarchy_->run(
        static_cast<const std::byte*>(send.data), {send_counts, send_offsets},
        static_cast<std::byte*>(recv.data), {recv_counts, recv_offsets},
        [&](std::span<HierarchicalExchange::Message> messages) { exchange_between_nodes(messages); });
    return {};
  }
  const auto self = static_cast<std::size_t>(rank());
  std::int64_t elements = 0;
  for (std::size_t peer = 0; peer < send_blocks.counts.size(); ++peer)
    elements += send_blocks.counts[peer] + recv_blocks.counts[peer];
  auto pending = start_transfers(Operation::kAllToAllV, bytes_of(elements, dtype));
  const MpiOperation& operation = pending->operation;
  const auto send_block = [&](std::size_t to) { return at(send.data, send_blocks.offsets[to], dtype); };
  const auto recv_block = [&](std::size_t from) { return at(recv.data, recv_blocks.offsets[from], dtype); };

  group_.for_each_peer([&](int to, int from) {
    const auto source = static_cast<std::size_t>(from);
    const auto target = static_cast<std::size_t>(to);
    group_.check(pending->transfers.receive(recv_block(source), bytes_of(recv_blocks.counts[source], dtype),
                                            from, operation),
                 operation);
    group_.check(pending->transfers.send(send_block(target), bytes_of(send_blocks.counts[target], dtype), to,
                                         operation),
                 operation);
  });
  if (const std::int64_t own = send_blocks.counts[self]; own > 0) {
    std::memcpy(recv_block(self), send_block(self), static_cast<std::size_t>(bytes_of(own, dtype)));
  }
  return Work(std::move(pending));
}

Work MpiCommunicator::do_all_gather(ConstBufferView send, BufferView recv) {
  const std::int64_t bytes = static_cast<std::int64_t>(send.bytes());
  auto pending = start_transfers(Operation::kAllGather, bytes);
  const auto block = [&](int r) { return at(recv.data, r * send.count, send.dtype); };
  group_.for_each_peer([&](int to, int from) {
    group_.check(pending->transfers.receive(block(from), bytes, from, pending->operation),
                 pending->operation);
    group_.check(pending->transfers.send(send.data, bytes, to, pending->operation), pending->operation);
  });
  if (bytes > 0 && block(rank()) != send.data) std::memcpy(block(rank()), send.data, send.bytes());
  return Work(std::move(pending));
}

Work MpiCommunicator::do_broadcast(BufferView data, int root) {
  constexpr std::int64_t kPieceBytes = std::int64_t{1} << 30;
  const std::int64_t bytes = static_cast<std::int64_t>(data.bytes());
  auto pending = start_transfers(Operation::kBroadcast, bytes);
  for (std::int64_t offset = 0; offset < bytes; offset += kPieceBytes) {
    const int length = static_cast<int>(std::min(kPieceBytes, bytes - offset));
    group_.check(MPI_Ibcast(static_cast<char*>(data.data) + offset, length, MPI_BYTE, root, comm_,
                            pending->transfers.add()),
                 pending->operation);
  }
  return Work(std::move(pending));
}

Work MpiCommunicator::do_all_reduce(BufferView data, ReduceOp op) {
  if (size() == 1 || data.count == 0) return {};
  if (data.count <= kGatheredElements) {
    reduce_small(data, op);
    return {};
  }
  const Range own = partition(data.count, size(), rank());
  auto pending = reductions_.take();
  pending->start(group_.next(Operation::kAllReduce, static_cast<std::int64_t>(data.bytes())), data,
                 at(data.data, own.begin, data.dtype), op, /*gathers=*/true);
  return Work(std::move(pending));
}

Work MpiCommunicator::do_reduce_scatter(ConstBufferView send, BufferView recv, ReduceOp op) {
  if (send.count == 0) return {};
  const BufferView data{const_cast<void*>(send.data), send.count, send.dtype, send.device};  // only read
  auto pending = reductions_.take();
  pending->start(group_.next(Operation::kReduceScatter, static_cast<std::int64_t>(send.bytes())), data,
                 recv.data, op, /*gathers=*/false);
  return Work(std::move(pending));
}

const std::byte* MpiCommunicator::gather_small(const std::byte* data, const MpiOperation& operation) {
  const std::int64_t bytes = operation.bytes;
  std::byte* blocks = scratch(static_cast<std::size_t>(bytes * size()));
  if (bytes > 0) std::copy_n(data, bytes, blocks);
  for (int have = 1; have < size(); have *= 2) {
    const int more = std::min(have, size() - have);
    group_.check(
        transfers_->receive(blocks + have * bytes, more * bytes, (rank() + have) % size(), operation),
        operation);
    group_.check(transfers_->send(blocks, more * bytes, (rank() - have + size()) % size(), operation),
                 operation);
    group_.finish(*transfers_, operation);
  }
  return blocks;
}

void MpiCommunicator::reduce_small(BufferView data, ReduceOp op) {
  const auto bytes = static_cast<std::int64_t>(data.bytes());
  const std::byte* blocks =
      gather_small(static_cast<const std::byte*>(data.data), group_.next(Operation::kAllReduce, bytes));
  sources_.clear();
  for (int r = 0; r < size(); ++r) sources_.push_back(blocks + (r - rank() + size()) % size() * bytes);
  reduce_in_order(sources_, data.data, data.count, data.dtype, op);
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
  return std::make_unique<MpiCommunicator>(world, "world", mpi.watchdog(),
                                           Site{.paths = {}, .node = find_node(world, 0)});
}

}  // namespace conclave
