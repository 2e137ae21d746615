#include "comm/mpi/node_channels.h"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <exception>
#include <new>

#include "comm/base/error.h"
#include "comm/mpi/mpi_communicator.h"

namespace conclave {
namespace {

constexpr std::size_t kLineBytes = 64;
constexpr std::uint64_t kSlots = 4;  // of a ring: one is written while another is read
// Measured at 16, 64 and 256 KiB: below, the handshake shows; above, a ring no longer stays in cache.
constexpr std::int64_t kLargestSlotBytes = std::int64_t{64} << 10;
constexpr std::int64_t kSmallestSlotBytes = std::int64_t{4} << 10;
// What a rank's rings may take together; with many ranks slots get smaller.
constexpr std::int64_t kRingsBytes = std::int64_t{8} << 20;

using Counter = std::atomic<std::uint64_t>;
static_assert(Counter::is_always_lock_free, "counters are shared between processes");

struct alignas(kLineBytes) CounterLine {
  Counter value{0};
};

int size_of(MPI_Comm comm) {
  int size = 0;
  MPI_Comm_size(comm, &size);
  return size;
}

std::int64_t slot_bytes_for(int ranks) {
  const std::int64_t share = kRingsBytes / (ranks * static_cast<std::int64_t>(kSlots));
  return std::clamp(share / 4096 * 4096, kSmallestSlotBytes, kLargestSlotBytes);
}

int cores_of_this_process() {
  cpu_set_t cores;
  return sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 1;
}

std::byte* aligned_up(void* address) {
  const auto value = reinterpret_cast<std::uintptr_t>(address);
  return static_cast<std::byte*>(address) + (kLineBytes - value % kLineBytes) % kLineBytes;
}

}  // namespace

bool ChannelSet::progress() {
  bool moved = false;
  for (NodeChannels* channels : all_) moved = channels->progress() || moved;
  return moved;
}

// What stands before the payload of a slot.
struct alignas(kLineBytes) NodeChannels::Slot {
  Counter number{0};  // of the piece in the slot, from 1
  std::int64_t message_bytes = 0;
  std::int64_t sequence = 0;
  Operation operation = Operation::kNone;
  int phase = 0;

  std::byte* payload() { return reinterpret_cast<std::byte*>(this + 1); }
};

std::int64_t NodeChannels::Queue::post(void* data, std::int64_t bytes, const MpiOperation& operation) {
  messages.push_back({static_cast<std::byte*>(data), bytes, 0, operation});
  return ++posted;
}

void NodeChannels::Queue::pop() {
  ++completed;
  ++first;
  if (first == messages.size()) {
    messages.clear();
    first = 0;
  }
}

std::unique_ptr<NodeChannels> NodeChannels::open(MPI_Comm group, int node, std::shared_ptr<ChannelSet> set) {
  int rank = 0;
  MPI_Comm_rank(group, &rank);
  MPI_Comm members = MPI_COMM_NULL;
  const int split = MPI_Comm_split(group, node, rank, &members);
  CONCLAVE_CHECK(split == MPI_SUCCESS, "MPI_Comm_split of a group into nodes failed with code {}", split);
  const int ranks = size_of(members);
  if (ranks == 1) {
    MPI_Comm_free(&members);
    return nullptr;
  }
  MPI_Comm_set_errhandler(members, MPI_ERRORS_RETURN);

  const std::int64_t slot_bytes = slot_bytes_for(ranks);
  const auto ring_bytes = kSlots * (sizeof(Slot) + static_cast<std::size_t>(slot_bytes));
  const auto bytes = kLineBytes + static_cast<std::size_t>(ranks) * (sizeof(CounterLine) + ring_bytes);
  MPI_Info info = MPI_INFO_NULL;
  MPI_Info_create(&info);
  MPI_Info_set(info, "alloc_shared_noncontig", "true");
  void* memory = nullptr;
  MPI_Win window = MPI_WIN_NULL;
  const int code = MPI_Win_allocate_shared(static_cast<MPI_Aint>(bytes), 1, info, members, &memory, &window);
  MPI_Info_free(&info);
  int all_have_it = code == MPI_SUCCESS ? 1 : 0;
  MPI_Allreduce(MPI_IN_PLACE, &all_have_it, 1, MPI_INT, MPI_MIN, members);
  if (all_have_it == 0) {
    if (window != MPI_WIN_NULL) MPI_Win_free(&window);
    MPI_Comm_free(&members);
    return nullptr;
  }
  std::unique_ptr<NodeChannels> channels(new NodeChannels(members, window, std::move(set)));
  channels->find_links(group, slot_bytes);
  return channels;
}

NodeChannels::NodeChannels(MPI_Comm node, MPI_Win window, std::shared_ptr<ChannelSet> set)
    : node_(node),
      window_(window),
      set_(std::move(set)),
      oversubscribed_(size_of(node) > cores_of_this_process()) {
  set_->add(*this);
}

NodeChannels::~NodeChannels() {
  set_->remove(*this);
  if (std::uncaught_exceptions() > 0 || !MpiRuntime::active()) return;
  MPI_Win_free(&window_);
  MPI_Comm_free(&node_);
}

// A rank's part of the window: for each rank of the node the count of its slots that this one has emptied,
// then for each rank of the node the ring of messages to it.
void NodeChannels::find_links(MPI_Comm group, std::int64_t slot_bytes) {
  slot_bytes_ = slot_bytes;
  const int ranks = size_of(node_);
  const std::size_t ring_bytes = kSlots * (sizeof(Slot) + static_cast<std::size_t>(slot_bytes));
  int self = 0;
  MPI_Comm_rank(node_, &self);

  const auto part_of = [&](int rank) {
    MPI_Aint bytes = 0;
    int unit = 0;
    void* base = nullptr;
    MPI_Win_shared_query(window_, rank, &bytes, &unit, &base);
    return aligned_up(base);
  };
  const auto counter = [&](std::byte* part, int rank) { return reinterpret_cast<CounterLine*>(part) + rank; };
  const auto ring = [&](std::byte* part, int rank) {
    return part + static_cast<std::size_t>(ranks) * sizeof(CounterLine) +
           static_cast<std::size_t>(rank) * ring_bytes;
  };

  std::byte* own = part_of(self);
  for (int rank = 0; rank < ranks; ++rank) {
    new (counter(own, rank)) CounterLine;
    for (std::uint64_t number = 0; number < kSlots; ++number) new (&slot(ring(own, rank), number)) Slot;
  }
  MPI_Barrier(node_);

  MPI_Group all = MPI_GROUP_NULL;
  MPI_Group here = MPI_GROUP_NULL;
  MPI_Comm_group(group, &all);
  MPI_Comm_group(node_, &here);
  links_.resize(static_cast<std::size_t>(size_of(group)));
  for (int distance = 1; distance < ranks; ++distance) {
    const int rank = (self + distance) % ranks;
    int peer = 0;
    MPI_Group_translate_ranks(here, 1, &rank, all, &peer);
    std::byte* theirs = part_of(rank);
    Link& link = links_[static_cast<std::size_t>(peer)];
    link.out = ring(own, rank);
    link.in = ring(theirs, self);
    link.freed_out = counter(theirs, self);
    link.freed_in = counter(own, rank);
    peers_.push_back(peer);
  }
  MPI_Group_free(&all);
  MPI_Group_free(&here);
}

NodeChannels::Slot& NodeChannels::slot(std::byte* ring, std::uint64_t number) const {
  const std::size_t stride = sizeof(Slot) + static_cast<std::size_t>(slot_bytes_);
  return *reinterpret_cast<Slot*>(ring + number % kSlots * stride);
}

std::int64_t NodeChannels::send(const void* data, std::int64_t bytes, int peer,
                                const MpiOperation& operation) {
  Link& link = links_[static_cast<std::size_t>(peer)];
  const std::int64_t number = link.outgoing.post(const_cast<void*>(data), bytes, operation);  // only read
  while (push(link)) {
  }
  return number;
}

std::int64_t NodeChannels::receive(void* data, std::int64_t bytes, int peer, const MpiOperation& operation) {
  return links_[static_cast<std::size_t>(peer)].incoming.post(data, bytes, operation);
}

bool NodeChannels::progress() {
  if (stopped_) return false;
  bool moved = false;
  for (const int peer : peers_) {
    Link& link = links_[static_cast<std::size_t>(peer)];
    moved = push(link) || moved;
    moved = pull(link, peer) || moved;
  }
  return moved;
}

bool NodeChannels::push(Link& link) {
  if (link.outgoing.empty()) return false;
  if (link.filled - link.seen_freed == kSlots) {
    link.seen_freed = static_cast<CounterLine*>(link.freed_out)->value.load(std::memory_order_acquire);
    if (link.filled - link.seen_freed == kSlots) return false;
  }
  Queue::Message& message = link.outgoing.front();
  const std::int64_t length = std::min(slot_bytes_, message.bytes - message.moved);
  Slot& target = slot(link.out, link.filled);
  target.message_bytes = message.bytes;
  target.sequence = message.operation.sequence;
  target.operation = message.operation.operation;
  target.phase = message.operation.phase;
  link.copy.copy(target.payload(), message.data + message.moved, static_cast<std::size_t>(length));
  target.number.store(++link.filled, std::memory_order_release);
  message.moved += length;
  if (message.moved == message.bytes) link.outgoing.pop();
  return true;
}

bool NodeChannels::pull(Link& link, int peer) {
  if (link.incoming.empty() || !link.problem.empty()) return false;
  Slot& source = slot(link.in, link.emptied);
  if (source.number.load(std::memory_order_acquire) != link.emptied + 1) return false;
  Queue::Message& message = link.incoming.front();
  const MpiOperation& expected = message.operation;
  if (source.operation != expected.operation || source.sequence != expected.sequence ||
      source.phase != expected.phase) {
    link.problem = wrong_operation_text(peer, source.operation, source.sequence, source.message_bytes);
    return false;
  }
  if (source.message_bytes != message.bytes) {
    link.problem = wrong_length_text(peer, message.bytes, source.message_bytes);
    return false;
  }
  const std::int64_t length = std::min(slot_bytes_, message.bytes - message.moved);
  if (length > 0) {
    std::memcpy(message.data + message.moved, source.payload(), static_cast<std::size_t>(length));
  }
  static_cast<CounterLine*>(link.freed_in)->value.store(++link.emptied, std::memory_order_release);
  message.moved += length;
  if (message.moved == message.bytes) link.incoming.pop();
  return true;
}

}  // namespace conclave
