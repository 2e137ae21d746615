#include "trainer/signal_thread.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "layers/ops/gemm/gemm.h"
#include "tests/support/operator_test.h"

namespace conclave {
namespace {

std::atomic<int> handled = 0;
thread_local bool computes = false;

void count_signal(int) {
  if (computes) _exit(2);
  ++handled;
}

void handle_stop_signals() {
  for (const int signal : kStopSignals) std::signal(signal, count_signal);
}

[[noreturn]] void receive_each_signal() {
  const SignalThread signal_thread;
  handle_stop_signals();
  computes = true;
  std::thread later([] {
    computes = true;
    for (const int signal : kStopSignals) kill(getpid(), signal);
  });
  later.join();
  while (handled < static_cast<int>(kStopSignals.size())) std::this_thread::yield();
  _exit(0);
}

[[noreturn]] void receive_unhandled() {
  const SignalThread signal_thread;
  kill(getpid(), SIGTERM);
  while (true) pause();
}

// Sums that are not 2k, of all m x n in ones * twos.
std::int64_t wrong_sums(std::int64_t m, std::int64_t k, std::int64_t n, bool transpose_a, bool transpose_b) {
  test::LocalContext context;
  std::vector<float> a(static_cast<std::size_t>(m * k), 1.0F);
  std::vector<float> b(static_cast<std::size_t>(k * n), 2.0F);
  std::vector<float> c(static_cast<std::size_t>(m * n));
  gemm(context, {.a = test::view(a, transpose_a ? Shape{k, m} : Shape{m, k}),
                 .b = test::view(b, transpose_b ? Shape{n, k} : Shape{k, n}),
                 .c = test::view(c, {m, n}),
                 .transpose_a = transpose_a,
                 .transpose_b = transpose_b});
  const auto expected = static_cast<float>(2 * k);
  return std::ranges::count_if(c, [expected](float sum) { return sum != expected; });
}

[[noreturn]] void multiply_under_signals() {
  const SignalThread signal_thread;
  handle_stop_signals();
  std::atomic<bool> done = false;
  std::thread sender([&done] {
    while (!done) {
      kill(getpid(), SIGUSR1);
      usleep(20);
    }
  });
  std::int64_t wrong = 0;
  for (std::int64_t i = 0; i < 8000; ++i) {
    wrong += wrong_sums(1 + i % 127, 1 + i % 128, 1 + i % 129, i % 2 == 0, i % 3 == 0);
  }
  done = true;
  sender.join();
  _exit(wrong == 0 && handled > 0 ? 0 : 1);
}

class SignalThreadTest : public testing::Test {
 protected:
  // A process of its own: threads of earlier tests block nothing.
  SignalThreadTest() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST_F(SignalThreadTest, NoHandlerRunsOnAThreadThatComputes) {
  EXPECT_EXIT(receive_each_signal(), testing::ExitedWithCode(0), "");
}

TEST_F(SignalThreadTest, AnUnhandledSignalEndsTheProcess) {
  EXPECT_EXIT(receive_unhandled(), testing::KilledBySignal(SIGTERM), "");
}

// What a handler's frame on the stack of a generated kernel does: wrong sums, a broken heap, a crash.
TEST_F(SignalThreadTest, ProductsStayRightUnderSignals) {
  EXPECT_EXIT(multiply_under_signals(), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace conclave
