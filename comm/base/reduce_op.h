// What a reduction does with the elements of its sources.
#pragma once

#include <cstdint>

namespace conclave {

enum class ReduceOp : std::uint8_t { kSum, kMax, kMin };

}  // namespace conclave
