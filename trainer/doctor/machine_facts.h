// What can be read off this machine without measuring.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace conclave {

struct MachineFacts {
  std::string host;
  std::string cpu;               // model name
  int cores = 0;                 // online, of the host
  std::vector<int> bound_cores;  // that this process may run on
  int openmp_threads = 0;
  std::int64_t memory_bytes = 0;  // of the host
  std::vector<std::string>
      instruction_sets;     // of those that matter here: "avx2", "avx512f", "avx512_bf16", "amx_bf16"
  std::string mpi_library;  // first line of its version

  bool has(const std::string& instruction_set) const;
};

MachineFacts read_machine_facts();

// "0-3, 8".
std::string core_list(const std::vector<int>& cores);

}  // namespace conclave
