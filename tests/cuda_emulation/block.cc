#include "tests/cuda_emulation/block.h"

#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <csetjmp>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <vector>

#include "tests/cuda_emulation/race_check.h"

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace emulation {
namespace {

constexpr std::size_t kStackBytes = std::size_t{128} << 10;
constexpr unsigned kMaxThreads = 1024;

// A stack on which one thread after the other runs. ucontext makes it; the quicker _setjmp and _longjmp,
// which leave the signal mask alone, switch to it.
class Fiber {
 public:
  Fiber() : stack_(mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {
    if (stack_ == MAP_FAILED) std::abort();
  }
  ~Fiber() { munmap(stack_, kStackBytes); }
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Starts, or goes on with, the thread; returns when it waits or is done.
  void resume(const std::function<void()>& thread) {
    if (_setjmp(caller_) != 0) return;
    if (is_running_) _longjmp(here_, 1);
    is_running_ = true;
    thread_ = &thread;
    if (is_made_) _longjmp(start_, 1);
    is_made_ = true;
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = stack_;
    context.uc_stack.ss_size = kStackBytes;
    context.uc_link = nullptr;
    const auto self = reinterpret_cast<std::uintptr_t>(this);
    makecontext(&context, reinterpret_cast<void (*)()>(&Fiber::main), 2, static_cast<unsigned>(self >> 32),
                static_cast<unsigned>(self));
    setcontext(&context);
  }
  // Within the thread: back to who resumed it.
  void wait() {
    if (_setjmp(here_) == 0) _longjmp(caller_, 1);
  }
  bool is_running() const { return is_running_; }

 private:
  static void main(unsigned high, unsigned low) {
    auto* self = reinterpret_cast<Fiber*>((static_cast<std::uintptr_t>(high) << 32) | low);
    self->run();
  }
  void run() {
    while (true) {
      (*thread_)();
      is_running_ = false;
      if (_setjmp(start_) == 0) _longjmp(caller_, 1);
    }
  }

  void* stack_;
  std::jmp_buf caller_;
  std::jmp_buf here_;
  std::jmp_buf start_;
  const std::function<void()>* thread_ = nullptr;
  bool is_running_ = false;
  bool is_made_ = false;
};

// Where `size` threads meet; the last to come lets all go on.
struct Barrier {
  unsigned size = 0;
  unsigned arrived = 0;
  unsigned long generation = 0;

  bool arrive() {
    if (++arrived < size) return false;
    arrived = 0;
    ++generation;
    return true;
  }
};

struct Warp {
  Barrier barrier;
  // Two rounds' values: who is still reading those of one can't be overtaken by the next but one.
  std::array<std::array<std::array<std::byte, 24>, warpSize>, 2> values;
};

// What a thread has begun, in groups; the last one is still open.
template <class Item>
class Groups {
 public:
  void add(Item item) { groups_.back().push_back(std::move(item)); }
  void commit() { groups_.emplace_back(); }
  // Hands what is due to `finish`, in order; true if there was anything.
  template <class Finish>
  bool wait(std::size_t groups_under_way, Finish finish) {
    bool any = false;
    for (; groups_.size() > groups_under_way + 1; groups_.pop_front()) {
      for (Item& item : groups_.front()) finish(item);
      any = any || !groups_.front().empty();
    }
    return any;
  }

 private:
  std::deque<std::vector<Item>> groups_{1};
};

struct Copy {
  void* to;
  const void* from;
  std::size_t bytes;
  std::size_t filled_bytes;
  const void* where;  // in the code it was begun
  Mark begin = 0;     // when

  void make() const {
    note_end_of_write(begin, to, filled_bytes, where);
    std::memcpy(to, from, bytes);
    std::memset(static_cast<std::byte*>(to) + bytes, 0, filled_bytes - bytes);
  }
};

struct Product {
  std::function<void()> add;
  std::vector<SharedPiece> reads;
  const void* where;
  Mark begin = 0;

  void make() const {
    for (const SharedPiece& piece : reads) note_end_of_read(begin, piece.memory, piece.bytes, where);
    add();
  }
};

// What runs beside one thread.
struct BesideThread {
  Groups<Copy> copies;
  Groups<Product> products;
  bool has_unpublished_copies = false;
};

class Block {
 public:
  std::string run(const std::function<void()>& thread, std::size_t shared_bytes);

  // `order`: what the last one to come tells the check for races.
  void wait_at(Barrier& barrier, void (*order)() = nullptr) {
    const unsigned long generation = barrier.generation;
    if (barrier.arrive()) {
      moved_ = true;
      if (order != nullptr) order();
      return;
    }
    Fiber& self = *fibers_[current_];
    while (barrier.generation == generation) self.wait();
    moved_ = true;
  }
  Barrier& all() { return all_; }
  Warp& warp() { return warps_[current_ / warpSize]; }
  std::byte* shared() { return shared_; }
  BesideThread& beside_thread() {
    if (beside_threads_.empty()) beside_threads_.resize(fibers_.size());
    return beside_threads_[current_];
  }
  bool any_unpublished_copies() const {
    return std::ranges::any_of(beside_threads_, &BesideThread::has_unpublished_copies);
  }
  void fail(const char* problem) {
    if (problem_.empty()) problem_ = problem;
  }

 private:
  void enter(unsigned thread) {
    current_ = thread;
    threadIdx = {thread % blockDim.x, thread / blockDim.x % blockDim.y, thread / (blockDim.x * blockDim.y)};
    enter_thread(thread);
  }

  std::vector<std::unique_ptr<Fiber>> fibers_;  // of the threads that have begun, by thread
  std::vector<std::unique_ptr<Fiber>> spare_;
  alignas(1024) std::byte shared_[kMaxSharedBytes];
  std::vector<BesideThread> beside_threads_;  // by thread; empty until one has something beside it
  std::string problem_;
  std::vector<Warp> warps_;
  Barrier all_;
  unsigned current_ = 0;
  bool moved_ = false;  // somebody got past a barrier, or to its end
};

Block& block() {
  static Block only;
  return only;
}

std::string Block::run(const std::function<void()>& thread, std::size_t shared_bytes) {
  const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
  std::memset(shared_, 0xFF, shared_bytes);
  beside_threads_.clear();
  problem_.clear();
  all_ = {threads};
  warps_.resize((threads + warpSize - 1) / warpSize);
  for (unsigned w = 0; w < warps_.size(); ++w) {
    warps_[w].barrier = {std::min<unsigned>(warpSize, threads - w * warpSize)};
  }
  fibers_.clear();
  fibers_.resize(threads);
  begin_block_of_race_check();
  std::vector<unsigned> waiting;
  for (unsigned t = 0; t < threads; ++t) {
    if (spare_.empty()) spare_.push_back(std::make_unique<Fiber>());
    fibers_[t] = std::move(spare_.back());
    spare_.pop_back();
    enter(t);
    fibers_[t]->resume(thread);
    if (fibers_[t]->is_running()) {
      waiting.push_back(t);
    } else {
      spare_.push_back(std::move(fibers_[t]));
    }
  }
  while (!waiting.empty()) {
    moved_ = false;
    std::vector<unsigned> still_waiting;
    for (const unsigned t : waiting) {
      enter(t);
      fibers_[t]->resume(thread);
      if (fibers_[t]->is_running()) {
        still_waiting.push_back(t);
      } else {
        moved_ = true;
        spare_.push_back(std::move(fibers_[t]));
      }
    }
    if (!moved_) return "threads of a block wait at a barrier that others never reach";
    waiting.swap(still_waiting);
  }
  return problem_;
}

}  // namespace

void wait_for_block() { block().wait_at(block().all(), order_block); }
void wait_for_warp() { block().wait_at(block().warp().barrier, order_warp); }

void* dynamic_shared_memory() { return block().shared(); }

void copy_later(void* to, const void* from, std::size_t bytes, std::size_t filled_bytes) {
  const void* where = __builtin_return_address(0);
  note_read(from, bytes, where);
  note_write(to, filled_bytes, where);
  block().beside_thread().copies.add({to, from, bytes, filled_bytes, where, begin_interval()});
}
void commit_copies() { block().beside_thread().copies.commit(); }
void wait_for_copies(std::size_t groups_under_way) {
  BesideThread& beside = block().beside_thread();
  if (beside.copies.wait(groups_under_way, [](const Copy& copy) { copy.make(); }))
    beside.has_unpublished_copies = true;
}

void publish_to_products() { block().beside_thread().has_unpublished_copies = false; }
void multiply_later(std::function<void()> add, std::vector<SharedPiece> reads, const void* where) {
  if (block().any_unpublished_copies())
    fail("a product begins before what it reads has been published to it");
  for (const SharedPiece& piece : reads) note_read(piece.memory, piece.bytes, where);
  block().beside_thread().products.add({std::move(add), std::move(reads), where, begin_interval()});
}
void commit_products() { block().beside_thread().products.commit(); }
void wait_for_products(std::size_t groups_under_way) {
  block().beside_thread().products.wait(groups_under_way, [](const Product& product) { product.make(); });
}

void fail(const char* problem) { block().fail(problem); }

namespace {

// The values of all lanes, once all have brought theirs; they stay until the next exchange but one.
const auto& meet_in_warp(const void* mine, std::size_t bytes) {
  Warp& warp = block().warp();
  auto& values = warp.values[warp.barrier.generation % 2];
  if (bytes > sizeof values[0]) std::abort();
  std::memcpy(values[static_cast<std::size_t>(lane())].data(), mine, bytes);
  block().wait_at(warp.barrier);
  return values;
}

}  // namespace

void exchange_in_warp(const void* mine, void* all, std::size_t bytes) {
  const auto& values = meet_in_warp(mine, bytes);
  for (std::size_t lane = 0; lane < warpSize; ++lane)
    std::memcpy(static_cast<std::byte*>(all) + lane * bytes, values[lane].data(), bytes);
}

void take_from_lane(const void* mine, void* theirs, std::size_t bytes, int lane) {
  const auto& values = meet_in_warp(mine, bytes);
  std::memcpy(theirs, values[static_cast<std::size_t>(lane)].data(), bytes);
}

std::string run_grid(const cudaLaunchConfig_t& config, const std::function<void()>& thread) {
  blockDim = config.blockDim;
  gridDim = config.gridDim;
  const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
  if (threads == 0 || threads > kMaxThreads || config.dynamicSmemBytes > kMaxSharedBytes)
    return "a block has too many threads, none, or too much shared memory";
  begin_race_check();
  std::string problem;
  for (unsigned z = 0; z < gridDim.z; ++z) {
    for (unsigned y = 0; y < gridDim.y; ++y) {
      for (unsigned x = 0; x < gridDim.x; ++x) {
        if (!problem.empty()) break;
        blockIdx = {x, y, z};
        problem = block().run(thread, config.dynamicSmemBytes);
      }
    }
  }
  end_race_check();
  return problem.empty() ? race_found() : problem;
}

}  // namespace emulation
