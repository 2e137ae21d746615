#include "trainer/doctor/gpu_facts.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "comm/nccl/nccl_collectives.h"
#include "comm/numa.h"
#include "trainer/metrics/table.h"
#include "trainer/outdated_driver.h"

namespace conclave {
namespace {

std::string driver_text(const GpuFacts& facts) {
  if (!facts.has_cuda) return "not looked for: this program can't use one";
  if (facts.system.driver_version == 0) return "none";
  return fmt::format("for CUDA up to {}", cuda_version_text(facts.system.driver_version));
}

// Why there is no GPU to compute on, and what to do about it; "" where there is one.
std::string missing_gpu(const GpuFacts& facts) {
  if (!facts.gpus.empty() || !facts.has_cuda) return "";
  const cuda::System& system = facts.system;
  const std::string needed = cuda_version_text(system.runtime_version);
  if (system.driver_version == 0) {
    return fmt::format(
        "no GPU driver: on a machine with an NVIDIA GPU install a driver for CUDA {} or newer (in a "
        "container: start "
        "it with access to the GPUs, e.g. docker run --gpus all)",
        needed);
  }
  if (const std::string outdated = outdated_driver(system); !outdated.empty()) return outdated;
  return fmt::format(
      "the driver shows no GPU ({}): is CUDA_VISIBLE_DEVICES set, and what does nvidia-smi say?",
      system.problem);
}

// "all of each other" or the pairs that can't.
std::string access_text(const GpuFacts& facts) {
  std::vector<std::string> without;
  for (std::size_t from = 0; from < facts.gpus.size(); ++from) {
    for (std::size_t to = 0; to < facts.gpus.size(); ++to) {
      if (from != to && !facts.access[from][to]) without.push_back(fmt::format("{} -> {}", from, to));
    }
  }
  if (without.empty()) return "every GPU reads the memory of every other";
  return fmt::format("not between {}: data takes the way through the host there", fmt::join(without, ", "));
}

std::string gpu_table(const GpuFacts& facts) {
  std::vector<std::vector<std::string>> rows;
  for (std::size_t i = 0; i < facts.gpus.size(); ++i) {
    const cuda::Gpu& gpu = facts.gpus[i];
    const int numa_node = facts.numa_nodes[i];
    rows.push_back({fmt::format("{}", gpu.index), gpu.name,
                    format_bytes(static_cast<double>(gpu.memory_bytes)),
                    fmt::format("{}.{}", gpu.compute_major, gpu.compute_minor), gpu.pci_bus_id,
                    numa_node < 0 ? "-" : fmt::format("{}", numa_node)});
  }
  return format_table({"GPU", "name", "memory", "compute capability", "PCI bus id", "NUMA node"}, rows);
}

}  // namespace

GpuFacts read_gpu_facts() {
  GpuFacts facts{.has_cuda = cuda::is_built_in(),
                 .cuda = cuda::description(),
                 .has_nccl = nccl_is_built_in(),
                 .nccl = nccl_description(),
                 .system = cuda::system(),
                 .gpus = cuda::gpus()};
  for (const cuda::Gpu& gpu : facts.gpus) {
    facts.numa_nodes.push_back(read_numa_facts(gpu.pci_bus_id).node);
    std::vector<bool>& access = facts.access.emplace_back();
    for (const cuda::Gpu& other : facts.gpus)
      access.push_back(gpu.index != other.index && cuda::can_access_peer(gpu.index, other.index));
  }
  return facts;
}

std::string gpu_report(const GpuFacts& facts) {
  std::string text =
      fmt::format("cuda         {}; driver {}\nnccl         {}\n", facts.cuda, driver_text(facts),
                  facts.has_nccl || facts.has_cuda ? facts.nccl : "not in a build without CUDA");
  if (facts.gpus.size() > 1) text += fmt::format("peer access  {}\n", access_text(facts));
  if (const std::string missing = missing_gpu(facts); !missing.empty())
    text += fmt::format("gpus         {}\n", missing);
  if (!facts.gpus.empty()) text += gpu_table(facts);
  return text;
}

}  // namespace conclave
