#include "comm/nccl/nccl_queue.h"

#include <algorithm>
#include <exception>
#include <thread>

#include "comm/base/error.h"

namespace conclave {

NcclQueue::NcclQueue(cuda::Stream& compute)
    : compute_(compute),
      stream_(compute.device().index, /*is_urgent=*/true),
      scratch_(cuda::allocate(compute.device(), 0)) {
  compute_.before_synchronize([this] { wait_for_awaited(); });
}

NcclQueue::~NcclQueue() { compute_.before_synchronize(nullptr); }

void NcclQueue::remove(NcclGroup& group) {
  if (std::uncaught_exceptions() == 0) {
    try {
      wait_for_all();
      std::erase(groups_, &group);
      return;
    } catch (const Error&) {
      // All groups have been ended, and nobody will read what these operations should have brought.
    }
  }
  NcclGroup::abort(groups_);  // all, since the others' kernels may be what this one's end waits for
  std::erase(groups_, &group);
  std::erase_if(under_way_, [&](const auto& operation) { return &operation->group == &group; });
}

std::shared_ptr<NcclQueue::Operation> NcclQueue::run(NcclGroup& group, const CollectiveNote& note,
                                                     const std::function<void()>& enqueue) {
  auto operation = std::make_shared<Operation>(group, note);
  or_abort([&] {
    find_failures();
    group.check_health(note);
    start_.record(compute_);
    start_.hold_back(stream_);
    enqueue();
    operation->end.record(stream_);
  });
  under_way_.push_back(operation);
  return operation;
}

void NcclQueue::hold_back_compute(Operation& operation) {
  operation.end.hold_back(compute_);
  operation.awaited = true;
}

void NcclQueue::check_health() {
  or_abort([this] { find_failures(); });
}

void NcclQueue::find_failures() {
  while (!under_way_.empty() && under_way_.front()->end.is_done()) under_way_.pop_front();
  check_groups();
}

// Each group once, with the first of its operations that are under way: there may be hundreds.
void NcclQueue::check_groups() {
  for (NcclGroup* group : groups_) {
    const auto first =
        std::ranges::find_if(under_way_, [&](const auto& operation) { return &operation->group == group; });
    if (first != under_way_.end()) group->check_health((*first)->note);
  }
}

std::byte* NcclQueue::scratch(std::size_t bytes) {
  if (scratch_bytes_ < bytes) {
    wait_for_all();
    scratch_ = cuda::allocate(compute_.device(), bytes);
    scratch_bytes_ = bytes;
  }
  return scratch_.get();
}

// One after the other: they end in the order in which they were started.
void NcclQueue::wait_for_awaited() {
  const auto last = std::ranges::find_if(under_way_.rbegin(), under_way_.rend(),
                                         [](const auto& operation) { return operation->awaited; });
  for (auto waiting = under_way_.rend() - last; waiting > 0; --waiting) wait_for_first();
}

void NcclQueue::wait_for_all() {
  while (!under_way_.empty()) wait_for_first();
}

void NcclQueue::wait_for_first() {
  constexpr int kPollsBetweenLooks = 256;
  const std::shared_ptr<Operation> first = under_way_.front();
  or_abort([&] {
    if (first->end.is_done()) return;
    const WatchedWait wait(first->group.watchdog(), first->note);
    for (int poll = 1; !first->end.is_done(); ++poll) {
      std::this_thread::yield();
      if (poll % kPollsBetweenLooks != 0) continue;
      check_groups();
    }
  });
  under_way_.pop_front();
}

// After a failure of one group the others' operations may wait for the same lost rank. Freeing memory waits
// for whatever runs on the GPU: nothing may be left there when the exception unwinds.
void NcclQueue::or_abort(const std::function<void()>& action) {
  try {
    action();
  } catch (...) {
    NcclGroup::abort(groups_);
    under_way_.clear();
    throw;
  }
}

}  // namespace conclave
