#include "tests/cuda_emulation/nccl.h"

#include <mpi.h>

#include <algorithm>
#include <array>
#include <climits>
#include <cstdint>
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace {

// What a rank tells the maker of the id, and the table that it gets back.
struct Hello {
  std::int32_t rank = -1;
  std::int32_t world_rank = -1;
  std::array<char, 320> gpu{};  // host and PCI bus id
};

struct Id {
  std::int32_t maker = 0;   // in MPI_COMM_WORLD
  std::int32_t number = 0;  // of the maker's ids
};

// Of messages in MPI_COMM_WORLD, which nobody else uses.
int hello_tag(const Id& id) { return 2 * id.number; }
int table_tag(const Id& id) { return 2 * id.number + 1; }

int world_rank() {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  return rank;
}

// A message that a stream's turn comes to.
struct Transfer {
  bool is_send;
  void* data;
  std::size_t bytes;
  int peer;
};

}  // namespace

// Shared by its owner and by the operations in streams, which may outlive an abort.
struct CommState {
  int rank = 0;
  int size = 1;
  Id id;
  std::vector<Hello> came;  // by rank, once all have
  MPI_Comm mpi = MPI_COMM_NULL;
  ncclResult_t result = ncclInProgress;
  std::string last_error;
  bool aborted = false;
  int under_way = 0;
};

struct ncclComm {
  std::shared_ptr<CommState> state = std::make_shared<CommState>();
};

namespace {

struct Globals {
  int ids = 0;
  int communicators = 0;
  bool loses_connection = false;
  int group_depth = 0;
  // What the open group holds, by the communicator and stream that it is for.
  struct Batch {
    std::shared_ptr<CommState> comm;
    cudaStream_t stream;
    std::vector<Transfer> transfers;
  };
  std::vector<Batch> batches;
};
Globals& globals() {
  static Globals only;
  return only;
}

void fail(CommState& comm, ncclResult_t result, const char* why) {
  comm.result = result;
  comm.last_error = why;
}

std::string gpu_of_this_rank() {
  std::array<char, MPI_MAX_PROCESSOR_NAME> host{};
  int length = 0;
  MPI_Get_processor_name(host.data(), &length);
  int device = 0;
  cudaGetDevice(&device);
  std::array<char, 16> bus{};
  cudaDeviceGetPCIBusId(bus.data(), static_cast<int>(bus.size()), device);
  return std::string(host.data()) + "/" + bus.data();
}

// The maker of the id gets to know who has come. True once all have, and every other rank has been told.
bool gather_ranks(CommState& comm) {
  for (int found = 1; comm.came.size() < static_cast<std::size_t>(comm.size);) {
    MPI_Iprobe(MPI_ANY_SOURCE, hello_tag(comm.id), MPI_COMM_WORLD, &found, MPI_STATUS_IGNORE);
    if (found == 0) return false;
    MPI_Recv(&comm.came.emplace_back(), sizeof(Hello), MPI_BYTE, MPI_ANY_SOURCE, hello_tag(comm.id),
             MPI_COMM_WORLD, MPI_STATUS_IGNORE);
  }
  std::ranges::sort(comm.came, {}, &Hello::rank);
  for (const Hello& hello : comm.came) {
    if (hello.world_rank == comm.id.maker) continue;
    MPI_Send(comm.came.data(), static_cast<int>(comm.came.size() * sizeof(Hello)), MPI_BYTE, hello.world_rank,
             table_tag(comm.id), MPI_COMM_WORLD);
  }
  return true;
}

// The others wait for the maker's table of all ranks. True once it is there.
bool receive_ranks(CommState& comm) {
  int found = 0;
  MPI_Iprobe(comm.id.maker, table_tag(comm.id), MPI_COMM_WORLD, &found, MPI_STATUS_IGNORE);
  if (found == 0) return false;
  comm.came.resize(static_cast<std::size_t>(comm.size));
  MPI_Recv(comm.came.data(), static_cast<int>(comm.came.size() * sizeof(Hello)), MPI_BYTE, comm.id.maker,
           table_tag(comm.id), MPI_COMM_WORLD, MPI_STATUS_IGNORE);
  return true;
}

// As far as it goes without waiting.
void connect(CommState& comm) {
  if (!(comm.id.maker == world_rank() ? gather_ranks(comm) : receive_ranks(comm))) return;
  std::set<std::string> gpus;
  std::vector<int> members;
  for (const Hello& hello : comm.came) {
    gpus.insert(hello.gpu.data());
    members.push_back(hello.world_rank);
  }
  if (gpus.size() < comm.came.size()) return fail(comm, ncclInvalidUsage, "two ranks have the same GPU");
  MPI_Group world = MPI_GROUP_NULL;
  MPI_Group group = MPI_GROUP_NULL;
  MPI_Comm_group(MPI_COMM_WORLD, &world);
  MPI_Group_incl(world, comm.size, members.data(), &group);
  MPI_Comm_create_group(MPI_COMM_WORLD, group, hello_tag(comm.id), &comm.mpi);
  MPI_Group_free(&group);
  MPI_Group_free(&world);
  comm.result = ncclSuccess;
}

// An operation in a stream: the messages of a group call.
class Operation {
 public:
  Operation(std::shared_ptr<CommState> comm, std::vector<Transfer> transfers)
      : comm_(std::move(comm)), transfers_(std::move(transfers)) {
    ++comm_->under_way;
  }

  // True once it has ended. Called by the stream, again and again, from its turn on.
  bool run() {
    if (comm_->aborted) return end();
    if (globals().loses_connection) {
      globals().loses_connection = false;
      fail(*comm_, ncclRemoteError, "the connection to a peer was closed");
    }
    if (comm_->result != ncclSuccess) return false;
    if (requests_.empty() && !transfers_.empty()) start();
    int done = 0;
    MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &done, MPI_STATUSES_IGNORE);
    return done != 0 && end();
  }

 private:
  void start() {
    for (const Transfer& transfer : transfers_) {
      MPI_Request& request = requests_.emplace_back(MPI_REQUEST_NULL);
      if (transfer.bytes > INT_MAX) MPI_Abort(MPI_COMM_WORLD, 1);
      const int bytes = static_cast<int>(transfer.bytes);
      if (transfer.is_send) {
        MPI_Isend(transfer.data, bytes, MPI_BYTE, transfer.peer, 0, comm_->mpi, &request);
      } else {
        MPI_Irecv(transfer.data, bytes, MPI_BYTE, transfer.peer, 0, comm_->mpi, &request);
      }
    }
  }
  bool end() {
    --comm_->under_way;
    return true;
  }

  std::shared_ptr<CommState> comm_;
  std::vector<Transfer> transfers_;
  std::vector<MPI_Request> requests_;
};

void enqueue(const std::shared_ptr<CommState>& comm, cudaStream_t stream, std::vector<Transfer> transfers) {
  auto operation = std::make_shared<Operation>(comm, std::move(transfers));
  emulation::enqueue_until_done(stream, [operation] { return operation->run(); });
}

ncclResult_t add(ncclComm_t comm, cudaStream_t stream, const Transfer& transfer) {
  if (comm == nullptr || transfer.peer < 0 || transfer.peer >= comm->state->size) return ncclInvalidArgument;
  if (comm->state->result != ncclSuccess) return comm->state->result;
  if (globals().group_depth == 0) {
    enqueue(comm->state, stream, {transfer});
    return ncclSuccess;
  }
  auto& batches = globals().batches;
  auto batch = std::ranges::find_if(
      batches, [&](const auto& b) { return b.comm == comm->state && b.stream == stream; });
  if (batch == batches.end()) batch = batches.insert(batches.end(), {comm->state, stream, {}});
  batch->transfers.push_back(transfer);
  return ncclSuccess;
}

}  // namespace

namespace emulation {

void lose_connection() { globals().loses_connection = true; }
int nccl_communicators() { return globals().communicators; }

}  // namespace emulation

const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess:
      return "no error";
    case ncclUnhandledCudaError:
      return "unhandled cuda error";
    case ncclSystemError:
      return "unhandled system error";
    case ncclInternalError:
      return "internal error";
    case ncclInvalidArgument:
      return "invalid argument";
    case ncclInvalidUsage:
      return "invalid usage";
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    case ncclInProgress:
      return "operation in progress";
  }
  return "?";
}

const char* ncclGetLastError(ncclComm_t comm) {
  return comm == nullptr ? "" : comm->state->last_error.c_str();
}

ncclResult_t ncclGetVersion(int* version) {
  *version = 22809;
  return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  const Id made{world_rank(), globals().ids++};
  std::memcpy(id->internal, &made, sizeof made);
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  if (config->blocking != 0 || rank < 0 || rank >= ranks) return ncclInvalidArgument;
  *comm = new ncclComm;
  ++globals().communicators;
  CommState& state = *(*comm)->state;
  state.rank = rank;
  state.size = ranks;
  std::memcpy(&state.id, id.internal, sizeof state.id);
  Hello hello{rank, world_rank(), {}};
  const std::string gpu = gpu_of_this_rank();
  std::copy_n(gpu.data(), std::min(gpu.size(), hello.gpu.size() - 1), hello.gpu.data());
  if (state.id.maker == world_rank()) {
    state.came.push_back(hello);
  } else {
    MPI_Send(&hello, sizeof hello, MPI_BYTE, state.id.maker, hello_tag(state.id), MPI_COMM_WORLD);
  }
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* result) {
  if (comm == nullptr) return ncclInvalidArgument;
  CommState& state = *comm->state;
  if (state.result == ncclInProgress && state.mpi == MPI_COMM_NULL) connect(state);
  *result = state.result;
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  return comm->state->under_way == 0 ? ncclSuccess : ncclInvalidUsage;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  if (comm->state->mpi != MPI_COMM_NULL) MPI_Comm_free(&comm->state->mpi);
  --globals().communicators;
  delete comm;
  return ncclSuccess;
}

// The MPI communicator stays: messages of the others may still be on their way.
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  comm->state->aborted = true;
  --globals().communicators;
  delete comm;
  return ncclSuccess;
}

ncclResult_t ncclGroupStart() {
  ++globals().group_depth;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  if (globals().group_depth == 0) return ncclInvalidUsage;
  if (--globals().group_depth > 0) return ncclSuccess;
  for (auto& batch : std::exchange(globals().batches, {}))
    enqueue(batch.comm, batch.stream, std::move(batch.transfers));
  return ncclSuccess;
}

ncclResult_t ncclSend(const void* data, std::size_t count, ncclDataType_t, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return add(comm, stream, {true, const_cast<void*>(data), count, peer});
}

ncclResult_t ncclRecv(void* data, std::size_t count, ncclDataType_t, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return add(comm, stream, {false, data, count, peer});
}

ncclResult_t ncclAllGather(const void* send, void* recv, std::size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
  if (comm == nullptr) return ncclInvalidArgument;
  auto* own = static_cast<std::byte*>(recv) + static_cast<std::size_t>(comm->state->rank) * count;
  if (own != send) cudaMemcpyAsync(own, send, count, cudaMemcpyDefault, stream);
  ncclGroupStart();
  for (int peer = 0; peer < comm->state->size; ++peer) {
    if (peer == comm->state->rank) continue;
    ncclSend(own, count, type, peer, comm, stream);
    ncclRecv(static_cast<std::byte*>(recv) + static_cast<std::size_t>(peer) * count, count, type, peer, comm,
             stream);
  }
  return ncclGroupEnd();
}

ncclResult_t ncclBroadcast(const void* send, void* recv, std::size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
  if (comm == nullptr) return ncclInvalidArgument;
  ncclGroupStart();
  if (comm->state->rank == root) {
    if (recv != send) cudaMemcpyAsync(recv, send, count, cudaMemcpyDefault, stream);
    for (int peer = 0; peer < comm->state->size; ++peer)
      if (peer != root) ncclSend(send, count, type, peer, comm, stream);
  } else {
    ncclRecv(recv, count, type, root, comm, stream);
  }
  return ncclGroupEnd();
}
