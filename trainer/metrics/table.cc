#include "trainer/metrics/table.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <cstdlib>

#include "comm/base/error.h"

namespace conclave {
namespace {

// Characters on the screen: UTF-8 continuation bytes (10xxxxxx) take no place.
std::size_t width_of(const std::string& text) {
  return static_cast<std::size_t>(
      std::ranges::count_if(text, [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; }));
}

bool looks_numeric(const std::string& cell) {
  const std::size_t first = cell.find_first_not_of("+-.");
  return first == std::string::npos || std::isdigit(static_cast<unsigned char>(cell[first])) != 0;
}

struct Column {
  std::size_t width = 0;
  bool right_aligned = true;
};

std::string format_row(const std::vector<Column>& columns, const std::vector<std::string>& cells) {
  std::string line;
  for (std::size_t i = 0; i < columns.size(); ++i) {
    const std::string padding(columns[i].width - width_of(cells[i]), ' ');
    line += (i == 0 ? "" : "  ") + (columns[i].right_aligned ? padding + cells[i] : cells[i] + padding);
  }
  line.erase(line.find_last_not_of(' ') + 1);
  return line + "\n";
}

}  // namespace

std::string format_table(const std::vector<std::string>& header,
                         const std::vector<std::vector<std::string>>& rows) {
  std::vector<Column> columns(header.size());
  for (std::size_t i = 0; i < header.size(); ++i) columns[i].width = width_of(header[i]);
  for (const auto& row : rows) {
    CONCLAVE_CHECK_EQ(row.size(), header.size(), "cells of a table row");
    for (std::size_t i = 0; i < row.size(); ++i) {
      columns[i].width = std::max(columns[i].width, width_of(row[i]));
      columns[i].right_aligned = columns[i].right_aligned && looks_numeric(row[i]);
    }
  }
  std::size_t total = columns.empty() ? 0 : 2 * (columns.size() - 1);
  for (const Column& column : columns) total += column.width;

  std::string table = format_row(columns, header) + std::string(total, '-') + "\n";
  for (const auto& row : rows) table += format_row(columns, row);
  return table;
}

std::string format_bytes(double bytes) {
  constexpr std::array<const char*, 6> kUnits{"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  std::size_t unit = 0;
  while (std::abs(bytes) >= 999.5 && unit + 1 < kUnits.size()) {
    bytes /= 1024;
    ++unit;
  }
  const int decimals = unit == 0 || std::abs(bytes) >= 99.95 ? 0 : std::abs(bytes) >= 9.995 ? 1 : 2;
  return fmt::format("{:.{}f} {}", bytes, decimals, kUnits[unit]);
}

std::string format_duration(double seconds) {
  const auto total = static_cast<long long>(std::llround(std::max(seconds, 0.0)));
  const long long minutes = total / 60;
  const long long hours = minutes / 60;
  if (total < 60) return fmt::format("{}s", total);
  if (minutes < 60) return fmt::format("{}m {:02}s", minutes, total % 60);
  if (hours < 24) return fmt::format("{}h {:02}m", hours, minutes % 60);
  return fmt::format("{}d {:02}h", hours / 24, hours % 24);
}

std::string format_count(long long count) {
  std::string digits = std::to_string(std::abs(count));
  for (auto position = static_cast<std::ptrdiff_t>(digits.size()) - 3; position > 0; position -= 3) {
    digits.insert(static_cast<std::size_t>(position), 1, ',');
  }
  return (count < 0 ? "-" : "") + digits;
}

}  // namespace conclave
