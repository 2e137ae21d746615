// Tables of numbers as text.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace conclave::data {

struct CsvTable {
  std::int64_t columns = 0;
  std::vector<float> values;  // [rows, columns]

  std::int64_t rows() const { return columns > 0 ? static_cast<std::int64_t>(values.size()) / columns : 0; }
};

// Fields are separated by commas, semicolons or tabs; the first line may be a header; empty lines are
// skipped. Throws Error with the path and the line for a field that is no finite number, and for lines of
// different lengths.
CsvTable read_csv(const std::string& path);

}  // namespace conclave::data
