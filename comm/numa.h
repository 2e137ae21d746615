// The processors that lie beside a GPU.
//
// A host with several NUMA nodes has its GPUs on one or the other; a thread that runs on the far one pays for
// every launch and every byte. Linux says in /sys which is which; no library is needed.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace conclave {

// What /sys says of one GPU.
struct NumaFacts {
  int nodes = 1;          // of the host that have processors
  int node = -1;          // of the GPU; -1: the host doesn't say
  std::vector<int> cpus;  // of that node, ascending
};

// `pci_bus_id` as CUDA writes it ("0000:3B:00.0"). `sys` is /sys, or a folder like it in tests.
NumaFacts read_numa_facts(std::string_view pci_bus_id, const std::filesystem::path& sys = "/sys");

// "0-3,8" as Linux writes it -> 0 1 2 3 8. Throws Error on anything else.
std::vector<int> parse_cpu_list(std::string_view text);

// Where the threads of a rank shall run, given where they may: the processors of the GPU's node among
// `allowed`. Empty if they stay as they are: there is one node only, the GPU's is unknown, all of `allowed`
// lie there, or none does, because whoever started the rank bound it elsewhere.
std::vector<int> cpus_beside_gpu(const NumaFacts& facts, std::span<const int> allowed);

// The processors that the calling thread may run on; afterwards it, and the threads that it starts from then
// on, run on `cpus` alone. Memory lies where the thread that first writes it runs.
std::vector<int> allowed_cpus();
void bind_to(std::span<const int> cpus);

}  // namespace conclave
