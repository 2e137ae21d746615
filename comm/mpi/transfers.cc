#include "comm/mpi/transfers.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

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

// A tag is, from its end: the operation and phase, the end of its number, and the length, as far as there is
// room. MPI promises tags up to 32767, Open MPI has 2^31 - 1.
constexpr int kKinds = 2 * (static_cast<int>(Operation::kBarrier) + 1);
constexpr int kNumbers = 64;
constexpr int kTagsOfALength = kKinds * kNumbers;

int kind_of(const MpiOperation& operation) {
  return 2 * static_cast<int>(operation.operation) + operation.phase;
}

// "all_reduce number 7": what a tag says, given that the sender's number is near `sequence`.
std::string text_of(int tag, std::int64_t sequence) {
  const auto operation = static_cast<Operation>(tag % kKinds / 2);
  const std::int64_t first = std::max<std::int64_t>(sequence - kNumbers / 2, 0);
  const std::int64_t number = first + (tag / kKinds % kNumbers - first % kNumbers + kNumbers) % kNumbers;
  return fmt::format("{} number {}", name_of(operation), number);
}

}  // namespace

Transfers::Transfers(MPI_Comm comm) : comm_(comm) {
  int* largest_tag = nullptr;
  int found = 0;
  MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, &largest_tag, &found);
  length_values_ = (found != 0 ? *largest_tag : 32767) / kTagsOfALength;
}

int Transfers::tag_of(const MpiOperation& operation, int bytes) const {
  const int number = static_cast<int>(operation.sequence % kNumbers);
  return (bytes % length_values_) * kTagsOfALength + number * kKinds + kind_of(operation);
}

int Transfers::send(const void* data, std::int64_t bytes, int peer, const MpiOperation& operation) {
  return for_each_piece(bytes, [&](std::int64_t offset, int length) {
    const void* from = length == 0 ? nullptr : static_cast<const char*>(data) + offset;
    return MPI_Isend(from, length, MPI_BYTE, peer, tag_of(operation, length), comm_, add());
  });
}

int Transfers::receive(void* data, std::int64_t bytes, int peer, const MpiOperation& operation) {
  return for_each_piece(bytes, [&](std::int64_t offset, int length) {
    void* to = length == 0 ? nullptr : static_cast<char*>(data) + offset;
    MPI_Request* request = add();
    expectations_.back() = {peer, length, operation};
    return MPI_Irecv(to, length, MPI_BYTE, peer, tag_of(operation, length), comm_, request);
  });
}

MPI_Request* Transfers::add() {
  expectations_.emplace_back();
  return &requests_.emplace_back(MPI_REQUEST_NULL);
}

int Transfers::wait(std::string& problem) {
  statuses_.resize(requests_.size());
  bool mismatch = false;
  const int code = wait_for_all(mismatch, problem);
  if (mismatch) {
    give_up();
    return MPI_ERR_OTHER;
  }
  int result = code == MPI_ERR_IN_STATUS ? MPI_SUCCESS : code;
  for (std::size_t i = 0; i < requests_.size(); ++i) {
    const auto& [peer, expected, operation] = expectations_[i];
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

// MPI_Waitall, which after half a second also looks, now and then, for messages that nobody expects.
int Transfers::wait_for_all(bool& mismatch, std::string& problem) {
  using Clock = std::chrono::steady_clock;
  constexpr auto kPatience = std::chrono::milliseconds(500);
  constexpr auto kBetweenLooks = std::chrono::milliseconds(100);
  constexpr int kPollsPerClock = 64;

  const auto count = static_cast<int>(requests_.size());
  Clock::time_point next_look = Clock::now() + kPatience;
  int suspicions = 0;
  for (int poll = 1;; ++poll) {
    int done = 0;
    const int code = MPI_Testall(count, requests_.data(), &done, statuses_.data());
    if (code != MPI_SUCCESS || done != 0) return code;
    if (poll % kPollsPerClock != 0 || Clock::now() < next_look) continue;
    next_look = Clock::now() + kBetweenLooks;
    problem = message_of_another_operation();
    // A message may complete what was waited for between the test and the look.
    suspicions = problem.empty() ? 0 : suspicions + 1;
    mismatch = suspicions == 2;
    if (mismatch) return code;
  }
}

// A peer's messages arrive in the order in which it sent them. One that fits no receive here, while an
// earlier one from that peer is still waited for, was sent instead of that. "" if there is none.
std::string Transfers::message_of_another_operation() const {
  for (std::size_t i = 0; i < requests_.size(); ++i) {
    const auto& [peer, expected, operation] = expectations_[i];
    if (expected < 0) continue;
    int done = 0;
    MPI_Request_get_status(requests_[i], &done, MPI_STATUS_IGNORE);
    if (done != 0) continue;
    int found = 0;
    MPI_Status status;
    MPI_Iprobe(peer, MPI_ANY_TAG, comm_, &found, &status);
    if (found == 0) continue;
    int bytes = 0;
    MPI_Get_count(&status, MPI_BYTE, &bytes);
    if (status.MPI_TAG % kTagsOfALength == tag_of(operation, 0)) {
      return fmt::format("expected {} bytes from rank {}, and it sends {}", expected, peer, bytes);
    }
    return fmt::format(
        "rank {} is in another operation, {}, and sends {} bytes; the ranks order their operations "
        "differently",
        peer, text_of(status.MPI_TAG, operation.sequence), bytes);
  }
  return "";
}

// Lets go of buffers that will not be filled.
void Transfers::give_up() {
  for (std::size_t i = 0; i < requests_.size(); ++i) {
    if (requests_[i] == MPI_REQUEST_NULL) continue;
    if (expectations_[i].bytes >= 0) MPI_Cancel(&requests_[i]);
    MPI_Request_free(&requests_[i]);
  }
  requests_.clear();
  expectations_.clear();
}

}  // namespace conclave
