#include "comm/communicator.h"

#include <utility>

namespace conclave {

Work& Work::operator=(Work&& other) {
  if (this != &other) {
    wait();
    pending_ = std::move(other.pending_);
  }
  return *this;
}

// An error of a collective that nobody waited for must not be lost, hence a destructor that may throw.
Work::~Work() noexcept(false) { wait(); }

void Work::wait() {
  if (const auto pending = std::exchange(pending_, nullptr)) pending->wait();
}

}  // namespace conclave
