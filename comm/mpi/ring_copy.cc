#include "comm/mpi/ring_copy.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace conclave {
namespace {

constexpr std::size_t kLineBytes = 64;
// Below this a few lines are taken back from the reader faster than memory is written.
constexpr std::size_t kOrdinaryBytes = 1024;
// From this on the clock costs nothing beside the copy.
constexpr std::size_t kTimedBytes = 16 * 1024;
// Both ways in turn at first, while memory is touched for the first time; then one trial of the worse way
// now and then.
constexpr std::uint32_t kFirstTrials = 16;
constexpr std::uint32_t kTrialEvery = 128;
// The writer's clock does not see the reader, who finds in the cache what was written by ordinary stores.
constexpr double kOrdinaryMayTake = 4;
// How fast an estimate forgets: a copy during which the core was taken away says nothing.
constexpr double kGrowth = 1.1;

#if defined(__SSE2__)

// One whole line at a time: the processor writes out lines that are complete.
void stream_line(std::byte* to, const std::byte* from) {
  const auto* source = reinterpret_cast<const __m128i*>(from);
  auto* target = reinterpret_cast<__m128i*>(to);
  const __m128i a = _mm_loadu_si128(source);
  const __m128i b = _mm_loadu_si128(source + 1);
  const __m128i c = _mm_loadu_si128(source + 2);
  const __m128i d = _mm_loadu_si128(source + 3);
  _mm_stream_si128(target, a);
  _mm_stream_si128(target + 1, b);
  _mm_stream_si128(target + 2, c);
  _mm_stream_si128(target + 3, d);
}

void stream_copy(void* to, const void* from, std::size_t bytes) {
  auto* target = static_cast<std::byte*>(to);
  const auto* source = static_cast<const std::byte*>(from);
  const std::size_t whole = bytes / kLineBytes * kLineBytes;
  for (std::size_t offset = 0; offset < whole; offset += kLineBytes) {
    stream_line(target + offset, source + offset);
  }
  if (whole < bytes) {
    std::array<std::byte, kLineBytes> rest{};
    std::memcpy(rest.data(), source + whole, bytes - whole);
    stream_line(target + whole, rest.data());
  }
  _mm_sfence();  // a release store alone does not wait for these
}

#else  // other processors have ordinary stores

void stream_copy(void* to, const void* from, std::size_t bytes) { std::memcpy(to, from, bytes); }

#endif

}  // namespace

void RingCopy::copy(void* to, const void* from, std::size_t bytes) {
  const Way better =
      ns_per_byte_[kOrdinary] < kOrdinaryMayTake * ns_per_byte_[kPastCaches] ? kOrdinary : kPastCaches;
  if (bytes >= kTimedBytes) {
    if (timed_copies_ < kFirstTrials)
      return timed_copy(timed_copies_ % 2 == 0 ? kOrdinary : kPastCaches, to, from, bytes);
    const Way worse = better == kOrdinary ? kPastCaches : kOrdinary;
    return timed_copy(timed_copies_ % kTrialEvery == 0 ? worse : better, to, from, bytes);
  }
  if (bytes < kOrdinaryBytes || better == kOrdinary) {
    if (bytes > 0) std::memcpy(to, from, bytes);
  } else {
    stream_copy(to, from, bytes);
  }
}

void RingCopy::timed_copy(Way way, void* to, const void* from, std::size_t bytes) {
  ++timed_copies_;
  const auto start = std::chrono::steady_clock::now();
  way == kOrdinary ? static_cast<void>(std::memcpy(to, from, bytes)) : stream_copy(to, from, bytes);
  const std::chrono::duration<double, std::nano> taken = std::chrono::steady_clock::now() - start;
  double& estimate = ns_per_byte_[way];
  const double now = taken.count() / static_cast<double>(bytes);
  estimate = estimate == 0 ? now : std::min(now, kGrowth * estimate);
}

}  // namespace conclave
