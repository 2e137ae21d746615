// Places in the program's code, and the lines of source that they come from.
#pragma once

#include <cstdint>
#include <string>

extern "C" const char __executable_start;  // NOLINT: the linker's

namespace emulation {

// Of the call that returns to `address`.
inline std::uint32_t place_in_code(const void* address) {
  return static_cast<std::uint32_t>(static_cast<const char*>(address) - &__executable_start) - 1;
}
// "file:line", and for what was inlined that of the call; the bare place where nobody knows.
std::string line_of_code(std::uint32_t place);

}  // namespace emulation
