#include "comm/nccl/nccl_group.h"

#include <nccl.h>

#include <chrono>
#include <exception>
#include <future>
#include <memory>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "comm/base/error.h"
#include "comm/cuda/runtime.h"

namespace conclave {
namespace {

// A communicator that doesn't block hands every launch to a thread of NCCL's, some ten microseconds' work:
// less than any sleep. What takes longer waits for other ranks.
constexpr auto kOwnWork = std::chrono::milliseconds(1);
constexpr auto kBetweenLooks = std::chrono::microseconds(50);
// An abort waits for threads and for other ranks of this host, which may be gone.
constexpr auto kLongestAbort = std::chrono::seconds(10);

// What rank 0 tells the others before NCCL can talk.
struct Bootstrap {
  ncclUniqueId id{};
  std::int32_t first_rank = 0;
};

ncclResult_t state_of(ncclComm* comm) {
  ncclResult_t state = ncclSuccess;
  const ncclResult_t asked = ncclCommGetAsyncError(comm, &state);
  return asked == ncclSuccess ? state : asked;
}

}  // namespace

NcclGroup::NcclGroup(Communicator& host, Device device)
    : host_(host), noted_name_(NotedText::words_of(host.name())) {
  cuda::select(device.index);
  Bootstrap bootstrap{.first_rank = watchdog().rank()};
  const CollectiveNote connecting = next(Operation::kSplit, 0);
  if (rank() == 0) check(ncclGetUniqueId(&bootstrap.id), connecting);
  host_.broadcast(buffer_view(std::span(reinterpret_cast<std::uint8_t*>(&bootstrap), sizeof(bootstrap))), 0);
  first_rank_ = bootstrap.first_rank;

  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;  // a call that waits for a lost rank returns all the same
  const ncclResult_t result = ncclCommInitRankConfig(&comm_, size(), bootstrap.id, rank(), &config);
  try {
    check(result, connecting);
  } catch (...) {
    abort();
    throw;
  }
}

NcclGroup::~NcclGroup() {
  if (comm_ == nullptr) return;
  if (std::uncaught_exceptions() > 0) {
    abort();
    return;
  }
  const CollectiveNote freeing = next(Operation::kFree, 0);
  const int finalized = settle(ncclCommFinalize(comm_), freeing);
  if (finalized != ncclSuccess || ncclCommDestroy(std::exchange(comm_, nullptr)) != ncclSuccess) abort();
}

CollectiveNote NcclGroup::next(Operation operation, std::int64_t bytes) {
  return {.operation = operation,
          .sequence = ++sequence_,
          .bytes = bytes,
          .group = noted_name_,
          .group_rank = rank(),
          .group_size = size(),
          .group_first = first_rank_};
}

void NcclGroup::check(int result, const CollectiveNote& operation) {
  const int settled = settle(result, operation);
  if (settled != ncclSuccess) fail(settled, operation);
}

void NcclGroup::check_health(const CollectiveNote& operation) {
  CONCLAVE_CHECK(comm_ != nullptr, "{} number {} in group \"{}\": NCCL was ended on this rank before",
                 name_of(operation.operation), operation.sequence, host_.name());
  const ncclResult_t state = state_of(comm_);
  if (state != ncclSuccess && state != ncclInProgress) fail(state, operation);
}

void NcclGroup::abort() {
  NcclGroup* only = this;
  abort(std::span(&only, 1));
}

// One after the other they would wait for each other for ever: ncclCommAbort frees memory, which waits for
// whatever runs on the GPU, kernels of the groups that come later among it. Within a group call (NCCL 2.22)
// all are told to end before any is freed. In a thread that is left behind if it doesn't come to an end.
void NcclGroup::abort(std::span<NcclGroup* const> groups) {
  std::vector<ncclComm*> comms;
  for (NcclGroup* group : groups) {
    if (group->comm_ != nullptr) comms.push_back(std::exchange(group->comm_, nullptr));
  }
  if (comms.empty()) return;
  const auto done = std::make_shared<std::promise<void>>();
  const std::future<void> ended = done->get_future();
  std::thread([comms, done] {
    static_cast<void>(ncclGroupStart());
    for (ncclComm* comm : comms) static_cast<void>(ncclCommAbort(comm));
    static_cast<void>(ncclGroupEnd());
    done->set_value();
  }).detach();
  static_cast<void>(ended.wait_for(kLongestAbort));
}

int NcclGroup::settle(int result, const CollectiveNote& operation) {
  if (result != ncclInProgress) return result;
  ncclResult_t state = state_of(comm_);
  const auto give_up = std::chrono::steady_clock::now() + kOwnWork;
  while (state == ncclInProgress && std::chrono::steady_clock::now() < give_up) {
    std::this_thread::yield();
    state = state_of(comm_);
  }
  if (state != ncclInProgress) return state;
  const WatchedWait wait(watchdog(), operation);
  while ((state = state_of(comm_)) == ncclInProgress) std::this_thread::sleep_for(kBetweenLooks);
  return state;
}

void NcclGroup::fail(int result, const CollectiveNote& operation) {
  const char* details = ncclGetLastError(comm_);
  throw Error(fmt::format("{} number {} of {} bytes in group \"{}\" failed on rank {} of {}: NCCL: {}{}{}",
                          name_of(operation.operation), operation.sequence, operation.bytes, host_.name(),
                          rank(), size(), ncclGetErrorString(static_cast<ncclResult_t>(result)),
                          details == nullptr || *details == '\0' ? "" : "; ",
                          details == nullptr ? "" : details));
}

}  // namespace conclave
