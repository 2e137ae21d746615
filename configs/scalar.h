// One YAML scalar to one value of the schema: strictly, so that a slip never becomes a different number.
#pragma once

#include <optional>
#include <string>

#include "configs/keys.h"

namespace conclave::config {

struct Scalar {
  std::string text;
  bool quoted = false;  // "4" in quotes is text, not a number
};

// Stores the scalar in `field` of `message`: sets a single field, appends to a list. Returns nothing, or what
// was found, what is valid and how to mend it, with `message` unchanged.
//   integers    decimal, no leading zeros (octal to some readers); 1e3 and 4.0 count, being whole
//   numbers     decimal, finite
//   booleans    true or false
//   enums       the names of run.proto
//   keywords    `auto`, `dropless`, `all` where the schema has one; limits bind numbers only
//   durations   a number and one of s, m, h, d
std::optional<std::string> store_scalar(const Scalar& scalar, const Field& field, Message& message);

}  // namespace conclave::config
