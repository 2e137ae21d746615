// Keeps signal handlers off the stacks that compute.
#pragma once

#include <array>
#include <csignal>
#include <semaphore>
#include <thread>

namespace conclave {

// The signals that stop a run (trainer/stop.h).
inline constexpr std::array kStopSignals = {SIGTERM, SIGINT, SIGUSR1, SIGUSR2};

// The one thread that receives kStopSignals, whether they are handled or end the process. Generated GEMM
// kernels use the stack pointer as an ordinary register (oneDNN's sgemm does): the frame of a handler that
// ran on such a thread would be written over whatever that register points to.
class SignalThread {
 public:
  // Blocks kStopSignals in the calling thread, and by inheritance in each thread that it starts from now on:
  // to be made before any other thread is, thus before MPI and OpenMP.
  SignalThread();
  // Ends the thread; the calling one has its former mask again.
  ~SignalThread();
  SignalThread(const SignalThread&) = delete;
  SignalThread& operator=(const SignalThread&) = delete;

 private:
  sigset_t former_mask_;
  std::binary_semaphore done_{0};
  std::thread thread_;
};

// kStopSignals as a set.
sigset_t stop_signal_set();

// Lets kStopSignals through again in the calling thread: before it becomes another program.
void unblock_stop_signals();

}  // namespace conclave
