#include "tests/cuda_emulation/source_lines.h"

#include <link.h>
#include <unistd.h>

#include <array>
#include <cstdio>

namespace emulation {
namespace {

// What has been added to the addresses that the program's file states.
std::uintptr_t load_bias() {
  std::uintptr_t bias = 0;
  dl_iterate_phdr(
      [](dl_phdr_info* program, std::size_t, void* result) {
        *static_cast<std::uintptr_t*>(result) = program->dlpi_addr;
        return 1;  // the first is enough
      },
      &bias);
  return bias;
}

}  // namespace

std::string line_of_code(std::uint32_t place) {
  const std::uintptr_t address = reinterpret_cast<std::uintptr_t>(&__executable_start) + place - load_bias();
  std::array<char, 512> text{};
  std::snprintf(text.data(), text.size(), "addr2line -s -i -e /proc/%d/exe 0x%zx 2> /dev/null",
                static_cast<int>(getpid()), static_cast<std::size_t>(address));
  std::string lines;
  if (std::FILE* found = popen(text.data(), "r"); found != nullptr) {
    while (std::fgets(text.data(), text.size(), found) != nullptr) {
      std::string line = text.data();
      line.resize(line.find_first_of(" \n"));
      if (line.find('?') == std::string::npos) lines += lines.empty() ? line : " (from " + line;
    }
    pclose(found);
  }
  if (lines.empty()) {
    std::snprintf(text.data(), text.size(), "0x%zx", static_cast<std::size_t>(address));
    return text.data();
  }
  for (const char c : std::string(lines)) {
    if (c == '(') lines += ')';
  }
  return lines;
}

}  // namespace emulation
