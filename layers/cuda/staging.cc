#include "layers/cuda/staging.h"

#include <algorithm>
#include <cstring>

#include "comm/cuda/recording.h"

namespace conclave::cuda {
namespace {

constexpr std::size_t kHalfBytes = std::size_t{2} << 20;
constexpr std::size_t kAlignment = 64;

}  // namespace

Staging::Staging(const Stream& stream) : stream_(stream), pinned_(allocate_pinned(2 * kHalfBytes)) {
  for (std::size_t half = 0; half < halves_.size(); ++half)
    halves_[half].memory = pinned_.get() + half * kHalfBytes;
}

void Staging::upload(void* to, const void* from, std::size_t bytes) {
  auto* target = static_cast<std::byte*>(to);
  const auto* source = static_cast<const std::byte*>(from);
  if (stream_.recording() != nullptr && bytes > 0) {
    std::byte* kept = stream_.recording()->keep(bytes);
    std::memcpy(kept, source, bytes);
    copy(stream_, target, kept, bytes);
    return;
  }
  for (std::size_t granted = 0; bytes > 0; bytes -= granted, target += granted, source += granted) {
    std::byte* staged = take(bytes, granted);
    std::memcpy(staged, source, granted);
    copy(stream_, target, staged, granted);
  }
}

void Staging::download(void* to, const void* from, std::size_t bytes) {
  auto* target = static_cast<std::byte*>(to);
  const auto* source = static_cast<const std::byte*>(from);
  for (std::size_t granted = 0; bytes > 0; bytes -= granted, target += granted, source += granted) {
    std::byte* staged = take(bytes, granted);
    copy(stream_, staged, source, granted);
    stream_.synchronize();
    std::memcpy(target, staged, granted);
  }
}

std::byte* Staging::take(std::size_t bytes, std::size_t& granted) {
  if (halves_[filling_].used == kHalfBytes) {
    halves_[filling_].copied.record(stream_);
    filling_ = 1 - filling_;
    halves_[filling_].copied.synchronize();
    halves_[filling_].used = 0;
  }
  Half& half = halves_[filling_];
  granted = std::min(bytes, kHalfBytes - half.used);
  std::byte* memory = half.memory + half.used;
  half.used = std::min((half.used + granted + kAlignment - 1) / kAlignment * kAlignment, kHalfBytes);
  return memory;
}

}  // namespace conclave::cuda
