#include "trainer/signal_thread.h"

namespace conclave {

SignalThread::SignalThread() {
  const sigset_t signals = stop_signal_set();
  pthread_sigmask(SIG_BLOCK, &signals, &former_mask_);
  thread_ = std::thread([this] {
    unblock_stop_signals();
    done_.acquire();
  });
}

SignalThread::~SignalThread() {
  done_.release();
  thread_.join();
  pthread_sigmask(SIG_SETMASK, &former_mask_, nullptr);
}

sigset_t stop_signal_set() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : kStopSignals) sigaddset(&signals, signal);
  return signals;
}

void unblock_stop_signals() {
  const sigset_t signals = stop_signal_set();
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
}

}  // namespace conclave
