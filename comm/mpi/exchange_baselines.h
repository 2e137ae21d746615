// What an exchange between ranks is measured against: MPI's own, and a bare copy into memory that the ranks
// of a node share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace conclave {

class ExchangeBaselines {
 public:
  // Collective over all ranks of the job, in which MPI must run (MpiRuntime::active()). Every rank sends
  // `bytes_per_peer` to each rank, itself included.
  explicit ExchangeBaselines(std::int64_t bytes_per_peer);
  ~ExchangeBaselines();
  ExchangeBaselines(const ExchangeBaselines&) = delete;
  ExchangeBaselines& operator=(const ExchangeBaselines&) = delete;

  // Collective. One MPI_Alltoallv.
  void all_to_all_v();
  // True if all ranks run on one node: only then there is a window.
  bool has_window() const;
  // Copies the block of every other rank straight into that rank's part of the window. Not collective: it
  // synchronises with nobody.
  void copy_into_window();
  // Writes over what this rank received, so that the next exchange finds it in this rank's caches, as the
  // memory of a program that uses what arrives.
  void use_what_arrived();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace conclave
