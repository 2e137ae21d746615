// Memory of this process.
#pragma once

#include <cstdint>

namespace conclave {

// Bytes in RAM now (VmRSS of /proc/self/statm); 0 where the system does not say.
std::int64_t resident_memory_bytes();

}  // namespace conclave
