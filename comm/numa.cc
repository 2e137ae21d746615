#include "comm/numa.h"

#include <sched.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <iterator>

#include "comm/base/error.h"

namespace conclave {
namespace {

// The first line of a file of /sys; "" if it can't be read.
std::string first_line(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::vector<int> cpus_of_node(const std::filesystem::path& node) {
  return parse_cpu_list(first_line(node / "cpulist"));
}

int parse_number(std::string_view text, std::string_view whole) {
  int number = -1;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), number);
  CONCLAVE_CHECK(problem == std::errc() && end == text.data() + text.size() && number >= 0,
                 "\"{}\" is no list of processors", whole);
  return number;
}

}  // namespace

std::vector<int> parse_cpu_list(std::string_view text) {
  std::vector<int> cpus;
  std::string_view rest = text;
  while (!rest.empty()) {
    const std::string_view part = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(part.size() + 1, rest.size()));
    const std::size_t dash = part.find('-');
    const int first = parse_number(part.substr(0, dash), text);
    const int last = dash == std::string_view::npos ? first : parse_number(part.substr(dash + 1), text);
    CONCLAVE_CHECK(first <= last, "\"{}\" is no list of processors", text);
    for (int cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
  }
  return cpus;
}

NumaFacts read_numa_facts(std::string_view pci_bus_id, const std::filesystem::path& sys) {
  NumaFacts facts;
  const std::filesystem::path nodes = sys / "devices/system/node";
  int with_cpus = 0;
  std::error_code unreadable;
  for (const auto& entry : std::filesystem::directory_iterator(nodes, unreadable)) {
    const std::string name = entry.path().filename();
    const bool is_node = name.starts_with("node") && name.size() > 4 && std::isdigit(name[4]) != 0;
    if (is_node && !cpus_of_node(entry.path()).empty()) ++with_cpus;
  }
  facts.nodes = std::max(with_cpus, 1);

  std::string id(pci_bus_id);  // in lower case in /sys
  std::ranges::transform(id, id.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  const std::string node = first_line(sys / "bus/pci/devices" / id / "numa_node");
  if (node.empty() || node.starts_with('-')) return facts;
  facts.node = parse_number(node, node);
  facts.cpus = cpus_of_node(nodes / ("node" + node));
  return facts;
}

std::vector<int> cpus_beside_gpu(const NumaFacts& facts, std::span<const int> allowed) {
  if (facts.nodes < 2 || facts.node < 0) return {};
  std::vector<int> beside;
  std::ranges::set_intersection(facts.cpus, allowed, std::back_inserter(beside));
  if (beside.size() == allowed.size()) return {};
  return beside;
}

std::vector<int> allowed_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cpus;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  }
  return cpus;
}

void bind_to(std::span<const int> cpus) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int cpu : cpus) {
    if (cpu < CPU_SETSIZE) CPU_SET(cpu, &set);
  }
  CONCLAVE_CHECK(sched_setaffinity(0, sizeof(set), &set) == 0, "can't run on {} chosen processors: {}",
                 cpus.size(), std::strerror(errno));
}

}  // namespace conclave
