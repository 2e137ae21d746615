// The backend of a build without CUDA: no GPUs.
#include "comm/base/error.h"
#include "comm/cuda/memory.h"
#include "comm/cuda/ranges.h"
#include "comm/cuda/recording.h"
#include "comm/cuda/runtime.h"
#include "comm/cuda/stream.h"
#include "comm/cuda/timestamp.h"

namespace conclave::cuda {
namespace {

[[noreturn]] void refuse() { throw Error(description()); }

}  // namespace

bool is_built_in() { return false; }

std::string description() {
  return "this program was built without CUDA: install the CUDA Toolkit and build with -DCONCLAVE_CUDA=ON";
}

std::vector<Gpu> gpus() { return {}; }

void select(int) { refuse(); }

Stream::Stream(int, bool) { refuse(); }
Stream::~Stream() = default;
void Stream::synchronize() const {}
void Stream::outside_graphs(const std::function<void()>& action) const { action(); }

Recording::Recording(Stream& stream) : stream_(stream) { refuse(); }
Recording::~Recording() = default;
void Recording::record(const std::function<void()>&) {}
void Recording::replay() const {}
std::byte* Recording::keep(std::size_t) { refuse(); }

Event::Event() { refuse(); }
Event::~Event() = default;
void Event::record(const Stream&) {}
void Event::hold_back(const Stream&) const {}
bool Event::is_done() const { return true; }
void Event::synchronize() const {}

Timestamp::Timestamp() { refuse(); }
Timestamp::~Timestamp() = default;
void Timestamp::record(const Stream&) {}
double Timestamp::seconds_since(const Timestamp&) const { return 0; }

Memory allocate(Device, std::size_t) { refuse(); }
Memory allocate_pinned(std::size_t) { refuse(); }
void copy(const Stream&, void*, const void*, std::size_t) { refuse(); }
void fill_with_zeros(const Stream&, void*, std::size_t) { refuse(); }
void clear(Device, void*, std::size_t) { refuse(); }
void prefetch(const Stream&, const void*, std::size_t) { refuse(); }

void begin_range(const char*, std::int64_t) {}
void end_range() {}

}  // namespace conclave::cuda
