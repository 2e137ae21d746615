// The largest piece of memory that the program has asked for by operator new.
#pragma once

#include <cstddef>

namespace conclave::test {

void forget_allocations();
std::size_t largest_allocation();

}  // namespace conclave::test
