#include "comm/mpi/exchange_baselines.h"

#include <mpi.h>

#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "comm/base/error.h"

namespace conclave {
namespace {

void check(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  std::string text(MPI_MAX_ERROR_STRING, '\0');
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  throw Error(std::string(call) + ": " + text.substr(0, static_cast<std::size_t>(length)));
}

}  // namespace

struct ExchangeBaselines::State {
  int rank = 0;
  int ranks = 0;
  std::size_t bytes_per_peer = 0;
  std::vector<std::byte> send;
  std::vector<std::byte> recv;
  std::vector<int> counts;
  std::vector<int> displacements;
  MPI_Win window = MPI_WIN_NULL;
  std::vector<std::byte*> parts;  // of each rank, in the window
};

ExchangeBaselines::ExchangeBaselines(std::int64_t bytes_per_peer) : state_(std::make_unique<State>()) {
  State& state = *state_;
  check(MPI_Comm_rank(MPI_COMM_WORLD, &state.rank), "MPI_Comm_rank");
  check(MPI_Comm_size(MPI_COMM_WORLD, &state.ranks), "MPI_Comm_size");
  CONCLAVE_CHECK(bytes_per_peer > 0 && bytes_per_peer * state.ranks <= std::numeric_limits<int>::max(),
                 "{} bytes to each of {} ranks are no exchange of one MPI_Alltoallv", bytes_per_peer,
                 state.ranks);
  const auto ranks = static_cast<std::size_t>(state.ranks);
  state.bytes_per_peer = static_cast<std::size_t>(bytes_per_peer);
  state.send.assign(ranks * state.bytes_per_peer, std::byte{1});
  state.recv.assign(ranks * state.bytes_per_peer, std::byte{0});
  state.counts.assign(ranks, static_cast<int>(bytes_per_peer));
  for (int rank = 0; rank < state.ranks; ++rank)
    state.displacements.push_back(rank * static_cast<int>(bytes_per_peer));

  MPI_Comm node = MPI_COMM_NULL;
  check(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node),
        "MPI_Comm_split_type");
  int ranks_of_node = 0;
  check(MPI_Comm_size(node, &ranks_of_node), "MPI_Comm_size");
  int all_here = ranks_of_node == state.ranks ? 1 : 0;
  check(MPI_Allreduce(MPI_IN_PLACE, &all_here, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD), "MPI_Allreduce");
  if (all_here == 1) {
    void* own = nullptr;
    check(MPI_Win_allocate_shared(static_cast<MPI_Aint>(state.recv.size()), 1, MPI_INFO_NULL, node, &own,
                                  &state.window),
          "MPI_Win_allocate_shared");
    std::memset(own, 0, state.recv.size());
    for (int rank = 0; rank < state.ranks; ++rank) {
      MPI_Aint bytes = 0;
      int unit = 0;
      void* part = nullptr;
      check(MPI_Win_shared_query(state.window, rank, &bytes, &unit, &part), "MPI_Win_shared_query");
      state.parts.push_back(static_cast<std::byte*>(part));
    }
  }
  MPI_Comm_free(&node);
}

ExchangeBaselines::~ExchangeBaselines() {
  if (state_->window != MPI_WIN_NULL) MPI_Win_free(&state_->window);
}

void ExchangeBaselines::all_to_all_v() {
  State& state = *state_;
  check(MPI_Alltoallv(state.send.data(), state.counts.data(), state.displacements.data(), MPI_BYTE,
                      state.recv.data(), state.counts.data(), state.displacements.data(), MPI_BYTE,
                      MPI_COMM_WORLD),
        "MPI_Alltoallv");
}

bool ExchangeBaselines::has_window() const { return state_->window != MPI_WIN_NULL; }

void ExchangeBaselines::use_what_arrived() {
  State& state = *state_;
  std::memset(state.recv.data(), 1, state.recv.size());
  if (has_window()) std::memset(state.parts[static_cast<std::size_t>(state.rank)], 1, state.recv.size());
}

void ExchangeBaselines::copy_into_window() {
  const State& state = *state_;
  for (int step = 1; step < state.ranks; ++step) {
    const auto peer = static_cast<std::size_t>((state.rank + step) % state.ranks);
    std::memcpy(state.parts[peer] + static_cast<std::size_t>(state.rank) * state.bytes_per_peer,
                state.send.data() + peer * state.bytes_per_peer, state.bytes_per_peer);
  }
}

}  // namespace conclave
