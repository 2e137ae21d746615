// Operands and results of operators' tests, in memory that the device under test reaches.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "tests/support/test_gpu.h"

namespace conclave::test {

template <class T>
struct TestedMemory {
  using value_type = T;

  TestedMemory() = default;
  template <class U>
  TestedMemory(const TestedMemory<U>&) {}

  T* allocate(std::size_t count) { return static_cast<T*>(take_tested_memory(count * sizeof(T))); }
  void deallocate(T* memory, std::size_t) { give_tested_memory_back(memory); }

  friend bool operator==(const TestedMemory&, const TestedMemory&) { return true; }
};

// A vector that references and helpers, which compute on the host, take as an ordinary one.
template <class T>
class Values : public std::vector<T, TestedMemory<T>> {
 public:
  using std::vector<T, TestedMemory<T>>::vector;
  Values(const std::vector<T>& values) : Values(values.begin(), values.end()) {}

  operator std::vector<T>() const { return {this->begin(), this->end()}; }

  friend bool operator==(const Values& a, const Values& b) { return std::ranges::equal(a, b); }
  friend bool operator==(const Values& a, const std::vector<T>& b) { return std::ranges::equal(a, b); }
};

}  // namespace conclave::test
