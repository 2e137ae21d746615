#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "trainer/bench/bench.h"
#include "trainer/metrics/table.h"

namespace conclave::bench {
namespace {

std::string cell(const std::string& name, const Row& value) {
  if (value.is_null()) return "-";
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number_integer()) return format_count(value.get<long long>());
  const auto number = value.get<double>();
  if (name.ends_with("_share")) return fmt::format("{:.1f}%", 100 * number);
  if (number >= 1e4) return format_count(std::llround(number));
  return fmt::format("{:.{}f}", number, number < 10 ? 3 : 1);
}

// "peak_share" -> "peak", "tokens_per_s" -> "tokens/s", "optimizer_ms" -> "optimizer ms".
std::string heading(std::string name) {
  if (name.ends_with("_share")) name.resize(name.size() - 6);
  if (name.ends_with("_per_s")) name.replace(name.size() - 6, 6, "/s");
  std::ranges::replace(name, '_', ' ');
  return name;
}

}  // namespace

std::string to_table(const std::vector<Row>& rows) {
  std::vector<std::string> names;
  for (const Row& row : rows) {
    for (const auto& [name, value] : row.items()) {
      if (std::ranges::find(names, name) == names.end()) names.push_back(name);
    }
  }
  std::vector<std::string> header;
  for (const std::string& name : names) header.push_back(heading(name));
  std::vector<std::vector<std::string>> cells;
  for (const Row& row : rows) {
    cells.emplace_back();
    for (const std::string& name : names)
      cells.back().push_back(row.contains(name) ? cell(name, row[name]) : "-");
  }
  return format_table(header, cells);
}

}  // namespace conclave::bench
