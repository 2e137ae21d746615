#include "comm/mpi/node_table.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <mpi.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <new>
#include <string>

#include "comm/base/error.h"

namespace conclave {
namespace {

struct TableHead {
  alignas(alignof(RankNote)) std::atomic<std::int32_t> reporter{-1};
};

std::size_t bytes_of_table(int ranks) {
  return sizeof(TableHead) + static_cast<std::size_t>(ranks) * sizeof(RankNote);
}

// The memory `name`, zeros when it is new, or nullptr.
void* map_shared(const std::string& name, int flags, std::size_t bytes) {
  const int file = shm_open(name.c_str(), flags, 0600);
  if (file < 0) return nullptr;
  void* memory = MAP_FAILED;
  // posix_fallocate, unlike ftruncate, fails where the memory does not exist.
  const bool has_room = (flags & O_CREAT) == 0 || posix_fallocate(file, 0, static_cast<off_t>(bytes)) == 0;
  if (has_room) memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  return memory == MAP_FAILED ? nullptr : memory;
}

std::string host_name() {
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  return name.data();
}

void introduce(RankNote& note) {
  const std::string host = host_name();
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  note.rank = rank;
  std::memcpy(note.host.data(), host.data(), std::min(host.size(), note.host.size() - 1));
}

// The ranks that share memory with this one, in the order of the world.
class Node {
 public:
  Node() {
    const int code = MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &comm_);
    CONCLAVE_CHECK(code == MPI_SUCCESS, "MPI_Comm_split_type into nodes failed with code {}", code);
    MPI_Comm_rank(comm_, &rank_);
    MPI_Comm_size(comm_, &size_);
  }
  ~Node() { MPI_Comm_free(&comm_); }
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  void barrier() const { MPI_Barrier(comm_); }
  // The first rank's number, on every rank.
  std::int64_t first_of(std::int64_t number) const {
    MPI_Bcast(&number, 1, MPI_INT64_T, 0, comm_);
    return number;
  }
  bool all(bool mine) const {
    int everyone = mine ? 1 : 0;
    MPI_Allreduce(MPI_IN_PLACE, &everyone, 1, MPI_INT, MPI_MIN, comm_);
    return everyone != 0;
  }

 private:
  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
};

}  // namespace

NodeTable make_node_table() {
  const Node node;
  const std::string name = fmt::format("/conclave-{}", node.first_of(getpid()));
  const std::size_t bytes = bytes_of_table(node.size());

  void* memory = nullptr;
  if (node.rank() == 0) {
    shm_unlink(name.c_str());  // of a process that had this number before and was killed in here
    memory = map_shared(name, O_RDWR | O_CREAT | O_EXCL, bytes);
    if (memory != nullptr) {
      new (memory) TableHead;
      auto* notes = reinterpret_cast<RankNote*>(static_cast<std::byte*>(memory) + sizeof(TableHead));
      for (int rank = 0; rank < node.size(); ++rank) new (notes + rank) RankNote;
    }
  }
  node.barrier();
  if (node.rank() != 0) memory = map_shared(name, O_RDWR, bytes);
  const bool shared = node.all(memory != nullptr);
  if (node.rank() == 0) shm_unlink(name.c_str());

  NodeTable table;
  if (memory != nullptr) {
    table.memory = std::shared_ptr<void>(memory, [bytes](void* mapped) { munmap(mapped, bytes); });
  }
  if (!shared) {
    table = make_private_table(1, 0, "");
  } else {
    auto* notes = reinterpret_cast<RankNote*>(static_cast<std::byte*>(memory) + sizeof(TableHead));
    table.reporter = &static_cast<TableHead*>(memory)->reporter;
    table.ranks = {notes, static_cast<std::size_t>(node.size())};
    table.own = static_cast<std::size_t>(node.rank());
  }
  introduce(table.ranks[table.own]);
  node.barrier();
  return table;
}

}  // namespace conclave
