#include "trainer/doctor/machine_facts.h"

#include <fmt/format.h>
#include <mpi.h>
#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <sstream>

#include "comm/numa.h"

namespace conclave {
namespace {

// The value of the first line "key : value" of /proc/cpuinfo; "" if there is none.
std::string cpu_info(const std::string& key) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(key)) continue;
    const std::size_t colon = line.find(": ");
    return colon == std::string::npos ? "" : line.substr(colon + 2);
  }
  return "";
}

std::vector<std::string> instruction_sets() {
  std::vector<std::string> found;
  std::istringstream flags(cpu_info("flags"));
  for (std::string flag; flags >> flag;) {
    for (const char* wanted : {"avx2", "avx512f", "avx512_bf16", "amx_bf16"}) {
      if (flag == wanted) found.push_back(flag);
    }
  }
  return found;
}

std::string mpi_library() {
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> text{};
  int length = 0;
  MPI_Get_library_version(text.data(), &length);  // may be called before MPI_Init
  const std::string version(text.data(), static_cast<std::size_t>(length));
  return version.substr(0, version.find_first_of(",\n"));
}

}  // namespace

bool MachineFacts::has(const std::string& instruction_set) const {
  return std::ranges::find(instruction_sets, instruction_set) != instruction_sets.end();
}

MachineFacts read_machine_facts() {
  MachineFacts facts;
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  facts.host = name.data();
  facts.cpu = cpu_info("model name");
  facts.cores = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  facts.bound_cores = allowed_cpus();
  facts.openmp_threads = omp_get_max_threads();
  facts.memory_bytes = sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
  facts.instruction_sets = instruction_sets();
  facts.mpi_library = mpi_library();
  return facts;
}

std::string core_list(const std::vector<int>& cores) {
  std::string text;
  for (std::size_t i = 0; i < cores.size();) {
    std::size_t last = i;
    while (last + 1 < cores.size() && cores[last + 1] == cores[last] + 1) ++last;
    if (!text.empty()) text += ", ";
    text += last == i ? fmt::format("{}", cores[i]) : fmt::format("{}-{}", cores[i], cores[last]);
    i = last + 1;
  }
  return text;
}

}  // namespace conclave
