#include "comm/mpi/transfers.h"

#include <fmt/format.h>

#include <algorithm>

namespace conclave {
namespace {

constexpr std::int64_t kPieceBytes = std::int64_t{1} << 30;

// Calls piece(offset, bytes) for each piece of a block, at least once.
template <class Piece>
int for_each_piece(std::int64_t bytes, Piece piece) {
  std::int64_t offset = 0;
  do {
    const std::int64_t length = std::min(kPieceBytes, bytes - offset);
    if (const int code = piece(offset, static_cast<int>(length)); code != MPI_SUCCESS) return code;
    offset += length;
  } while (offset < bytes);
  return MPI_SUCCESS;
}

}  // namespace

int Transfers::send(const void* data, std::int64_t bytes, int peer, int tag) {
  return for_each_piece(bytes, [&](std::int64_t offset, int length) {
    const void* from = length == 0 ? nullptr : static_cast<const char*>(data) + offset;
    return MPI_Isend(from, length, MPI_BYTE, peer, tag, comm_, add());
  });
}

int Transfers::receive(void* data, std::int64_t bytes, int peer, int tag) {
  return for_each_piece(bytes, [&](std::int64_t offset, int length) {
    void* to = length == 0 ? nullptr : static_cast<char*>(data) + offset;
    MPI_Request* request = add();
    expectations_.back() = {peer, length};
    return MPI_Irecv(to, length, MPI_BYTE, peer, tag, comm_, request);
  });
}

MPI_Request* Transfers::add() {
  expectations_.emplace_back();
  return &requests_.emplace_back(MPI_REQUEST_NULL);
}

int Transfers::wait(std::string& problem) {
  statuses_.resize(requests_.size());
  const int code = MPI_Waitall(static_cast<int>(requests_.size()), requests_.data(), statuses_.data());
  int result = code == MPI_ERR_IN_STATUS ? MPI_SUCCESS : code;
  for (std::size_t i = 0; i < requests_.size(); ++i) {
    const auto [peer, expected] = expectations_[i];
    int received = expected;
    if (code == MPI_SUCCESS && expected >= 0) MPI_Get_count(&statuses_[i], MPI_BYTE, &received);
    const int error = code == MPI_ERR_IN_STATUS ? statuses_[i].MPI_ERROR : MPI_SUCCESS;
    if (error != MPI_SUCCESS && error != MPI_ERR_PENDING && result == MPI_SUCCESS) {
      result = error;
      if (expected >= 0) problem = fmt::format("expected {} bytes from rank {}", expected, peer);
    } else if (received != expected) {
      result = MPI_ERR_COUNT;
      problem = fmt::format("expected {} bytes from rank {} and got {}", expected, peer, received);
    }
  }
  requests_.clear();
  expectations_.clear();
  return result;
}

}  // namespace conclave
