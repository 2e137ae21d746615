#include "trainer/placement.h"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>

#include "comm/cuda/runtime.h"
#include "comm/device_choice.h"
#include "comm/mpi/mpi_communicator.h"
#include "comm/numa.h"
#include "trainer/checkpoint/agreement.h"
#include "trainer/doctor/machine_facts.h"
#include "trainer/metrics/table.h"

namespace conclave {
namespace {

// Fields of one rank, and the ranks, in the texts that travel: characters that no name of a host or a GPU
// has.
constexpr char kBetweenFields = '\t';
constexpr char kBetweenRanks = '\n';

std::vector<std::string> split_text(std::string_view text, char separator) {
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(separator, begin), text.size());
    parts.emplace_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

// Collective. The fields of every rank, on every rank.
std::vector<std::vector<std::string>> share(Communicator& world, const std::vector<std::string>& fields) {
  const auto joined = [](const std::vector<std::string>& parts, char separator) {
    std::string text;
    for (const std::string& part : parts)
      text += (&part == parts.data() ? "" : std::string(1, separator)) + part;
    return text;
  };
  const std::vector<std::string> lines = gather_on_rank_0(world, joined(fields, kBetweenFields));
  const std::string all = broadcast_text(world, joined(lines, kBetweenRanks), 0);
  std::vector<std::vector<std::string>> shared;
  for (const std::string& line : split_text(all, kBetweenRanks))
    shared.push_back(split_text(line, kBetweenFields));
  return shared;
}

// Collective.
std::vector<RankGpus> gpus_of_all_ranks(Communicator& world, const std::vector<cuda::Gpu>& own) {
  std::vector<std::string> fields = {fmt::format("{}", MpiRuntime::node()), read_machine_facts().host};
  for (const cuda::Gpu& gpu : own) fields.push_back(gpu.pci_bus_id);
  const std::vector<std::vector<std::string>> all = share(world, fields);
  std::vector<RankGpus> ranks;
  for (const std::vector<std::string>& of_rank : all)
    ranks.push_back({std::stoi(of_rank[0]), of_rank[1], {of_rank.begin() + 2, of_rank.end()}});
  return ranks;
}

// More threads than processors would take turns.
void run_beside(const NumaFacts& facts) {
  const std::vector<int> cpus = cpus_beside_gpu(facts, allowed_cpus());
  if (cpus.empty()) return;
  bind_to(cpus);
  omp_set_num_threads(std::min(omp_get_max_threads(), static_cast<int>(cpus.size())));
}

}  // namespace

Placement place_on_gpus(const config::Run& run, Communicator& world) {
  const std::vector<cuda::Gpu> visible = cuda::gpus();
  const std::vector<int> chosen = choose_gpus(gpus_of_all_ranks(world, visible), run.allow_gpu_sharing());
  const cuda::Gpu& gpu =
      visible.at(static_cast<std::size_t>(chosen.at(static_cast<std::size_t>(world.rank()))));
  const NumaFacts numa = read_numa_facts(gpu.pci_bus_id);
  run_beside(numa);

  Placement placement{.gpu = gpu.index, .ranks = {}};
  const std::string node = numa.node < 0 ? "-" : fmt::format("{}", numa.node);
  for (const std::vector<std::string>& fields :
       share(world, {read_machine_facts().host, fmt::format("{}", gpu.index), gpu.name, gpu.pci_bus_id, node,
                     core_list(allowed_cpus())})) {
    placement.ranks.push_back({fields[0], fields[1], fields[2], fields[3], fields[4], fields[5]});
  }
  return placement;
}

std::string describe(const Placement& placement) {
  constexpr std::size_t kMaxRows = 64;  // of a large job, enough to see the pattern
  const std::vector<RankPlace>& ranks = placement.ranks;
  std::vector<std::vector<std::string>> rows;
  for (std::size_t rank = 0; rank < std::min(ranks.size(), kMaxRows); ++rank) {
    const RankPlace& place = ranks[rank];
    rows.push_back({fmt::format("{}", rank), place.host, place.gpu, place.name, place.pci_bus_id,
                    place.numa_node, place.cores});
  }
  std::string text =
      format_table({"rank", "host", "GPU", "name", "PCI bus id", "NUMA node", "may run on cores"}, rows);
  if (ranks.size() > kMaxRows) text += fmt::format("...   {} more ranks\n", ranks.size() - kMaxRows);
  return text;
}

}  // namespace conclave
