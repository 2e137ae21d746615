#include "comm/mpi/transfers.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif
#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <utility>

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

Operation operation_of(int tag) { return static_cast<Operation>(tag % kKinds / 2); }

// The number of the operation, given that the sender's is near `sequence`.
std::int64_t number_of(int tag, std::int64_t sequence) {
  const std::int64_t first = std::max<std::int64_t>(sequence - kNumbers / 2, 0);
  return first + (tag / kKinds % kNumbers - first % kNumbers + kNumbers) % kNumbers;
}

// Of the same group. Who sends it has sent its part of `operation` before: that is still on its way, however
// long it takes.
bool is_later(int tag, const MpiOperation& operation) {
  const std::int64_t number = number_of(tag, operation.sequence);
  return number > operation.sequence ||
         (number == operation.sequence && operation.phase == 0 && tag % kKinds == kind_of(operation) + 1);
}

// Between two looks at shared memory: first a few cycles, then the core is given to whoever wants it.
class Pause {
 public:
  explicit Pause(bool give_up_core) : spins_(give_up_core ? 0 : kSpins) {}
  void reset() { waited_ = 0; }
  // True if that was long.
  bool wait() {
    if (waited_++ < spins_) {
#if defined(__SSE2__)
      _mm_pause();
#endif
      return false;
    }
    sched_yield();
    return true;
  }

 private:
  static constexpr int kSpins = 512;
  int spins_;
  int waited_ = 0;
};

// Lets MPI move what other groups have under way.
void progress_mpi(MPI_Comm comm) {
  int found = 0;
  MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, comm, &found, MPI_STATUS_IGNORE);
}

}  // namespace

Transfers::Transfers(MPI_Comm comm, NodeChannels* channels, ChannelSet& all_channels)
    : comm_(comm), channels_(channels), all_channels_(&all_channels) {
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
  if (channels_ != nullptr && channels_->reaches(peer)) {
    local_messages_.push_back({peer, channels_->send(data, bytes, peer, operation), true});
    return MPI_SUCCESS;
  }
  return for_each_piece(bytes, [&](std::int64_t offset, int length) {
    const void* from = length == 0 ? nullptr : static_cast<const char*>(data) + offset;
    return MPI_Isend(from, length, MPI_BYTE, peer, tag_of(operation, length), comm_, add());
  });
}

int Transfers::receive(void* data, std::int64_t bytes, int peer, const MpiOperation& operation) {
  if (channels_ != nullptr && channels_->reaches(peer)) {
    local_messages_.push_back({peer, channels_->receive(data, bytes, peer, operation), false});
    return MPI_SUCCESS;
  }
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

void Transfers::progress() {
  while (all_channels_->progress()) {
  }
  progress_mpi(comm_);
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

// Moves data until nothing is under way. After half a second it also looks, now and then, for MPI messages
// that nobody expects.
int Transfers::wait_for_all(bool& mismatch, std::string& problem) {
  using Clock = std::chrono::steady_clock;
  constexpr auto kPatience = std::chrono::milliseconds(500);
  constexpr auto kBetweenLooks = std::chrono::milliseconds(100);
  constexpr int kPollsPerClock = 64;

  const auto count = static_cast<int>(requests_.size());
  Clock::time_point next_look = Clock::now() + kPatience;
  int suspicions = 0;
  Pause pause(channels_ != nullptr && channels_->oversubscribed());
  int mpi_done = count == 0 ? 1 : 0;  // asked once more, MPI would forget what it received
  for (std::int64_t poll = 1;; ++poll) {
    if (all_channels_->progress()) pause.reset();
    const bool local_done = local_messages_end(problem);
    mismatch = !problem.empty();
    if (mismatch) return MPI_SUCCESS;
    if (mpi_done == 0) {
      const int code = MPI_Testall(count, requests_.data(), &mpi_done, statuses_.data());
      if (code != MPI_SUCCESS) return code;
    }
    if (mpi_done != 0) {
      if (local_done) return MPI_SUCCESS;
      if (pause.wait()) progress_mpi(comm_);
      continue;
    }
    if (poll % kPollsPerClock != 0 || Clock::now() < next_look) continue;
    next_look = Clock::now() + kBetweenLooks;
    std::string suspicion = message_of_another_operation();
    // A message may complete what was waited for between the test and the look.
    suspicions = suspicion.empty() ? 0 : suspicions + 1;
    mismatch = suspicions == 2;
    if (mismatch) {
      problem = std::move(suspicion);
      return MPI_SUCCESS;
    }
  }
}

bool Transfers::local_messages_end(std::string& problem) {
  std::erase_if(local_messages_, [&](const LocalMessage& message) {
    return message.is_send ? channels_->is_sent(message.peer, message.number)
                           : channels_->is_received(message.peer, message.number);
  });
  for (const LocalMessage& message : local_messages_) {
    if (!message.is_send && problem.empty()) problem = channels_->problem(message.peer);
  }
  return local_messages_.empty();
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
    if (is_later(status.MPI_TAG, operation)) continue;
    int bytes = 0;
    MPI_Get_count(&status, MPI_BYTE, &bytes);
    if (status.MPI_TAG % kTagsOfALength == tag_of(operation, 0)) {
      return wrong_length_text(peer, expected, bytes);
    }
    return wrong_operation_text(peer, operation_of(status.MPI_TAG),
                                number_of(status.MPI_TAG, operation.sequence), bytes);
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
  if (channels_ != nullptr) channels_->stop();
  local_messages_.clear();
}

}  // namespace conclave
