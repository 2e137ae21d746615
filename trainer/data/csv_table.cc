#include "trainer/data/csv_table.h"

#include <charconv>
#include <cmath>
#include <fstream>
#include <optional>
#include <string_view>

#include "comm/base/error.h"

namespace conclave::data {
namespace {

std::string_view trimmed(std::string_view field) {
  constexpr std::string_view kBlank = " \r\"";
  const std::size_t begin = field.find_first_not_of(kBlank);
  if (begin == std::string_view::npos) return {};
  return field.substr(begin, field.find_last_not_of(kBlank) - begin + 1);
}

std::vector<std::string_view> fields_of(std::string_view line) {
  std::vector<std::string_view> fields;
  for (std::size_t begin = 0; begin <= line.size();) {
    const std::size_t end = std::min(line.find_first_of(",;\t", begin), line.size());
    fields.push_back(trimmed(line.substr(begin, end - begin)));
    begin = end + 1;
  }
  return fields;
}

std::optional<float> number(std::string_view field) {
  if (field.starts_with('+')) field.remove_prefix(1);
  float value = 0;
  const auto [end, error] = std::from_chars(field.data(), field.data() + field.size(), value);
  if (error != std::errc() || end != field.data() + field.size() || !std::isfinite(value))
    return std::nullopt;
  return value;
}

}  // namespace

CsvTable read_csv(const std::string& path) {
  std::ifstream file(path);
  CONCLAVE_CHECK(file.good(), "data.regression.path: can't read {}; correct the path", path);
  CsvTable table;
  std::int64_t line_number = 0;
  bool header_allowed = true;
  for (std::string line; std::getline(file, line);) {
    ++line_number;
    if (trimmed(line).empty()) continue;
    const std::vector<std::string_view> fields = fields_of(line);
    std::vector<float> row;
    for (const std::string_view field : fields) {
      if (const auto value = number(field)) row.push_back(*value);
    }
    const bool is_header = header_allowed && row.empty();
    header_allowed = false;
    if (is_header) continue;
    CONCLAVE_CHECK_EQ(row.size(), fields.size(),
                      fmt::format("{}:{}: finite numbers among the fields of a line", path, line_number));
    const auto columns = static_cast<std::int64_t>(row.size());
    if (table.columns == 0) table.columns = columns;
    CONCLAVE_CHECK(columns == table.columns, "{}:{}: {} fields, but the lines before have {}", path,
                   line_number, columns, table.columns);
    table.values.insert(table.values.end(), row.begin(), row.end());
  }
  return table;
}

}  // namespace conclave::data
