// Plain-text tables.
#pragma once

#include <string>
#include <vector>

namespace conclave {

// Lines of aligned columns, two spaces apart, each ended by a newline; a rule follows the header. A column
// whose cells all start like numbers (or are empty or a dash) is right-aligned, others are left-aligned.
// Throws Error for a row that has not as many cells as the header. UTF-8 characters count as one column.
std::string format_table(const std::vector<std::string>& header,
                         const std::vector<std::vector<std::string>>& rows);

// "1.5 GiB", "312 B": powers of 1024, three significant digits.
std::string format_bytes(double bytes);
// "47s", "12m 05s", "3h 20m", "2d 04h".
std::string format_duration(double seconds);
// "1,234,567".
std::string format_count(long long count);

}  // namespace conclave
