// Where the lines of a text lie: for data.samples: lines, where each is a sample of its own.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/base/partition.h"
#include "trainer/data/token_source.h"

namespace conclave::data {

class LineIndex {
 public:
  // Reads the whole source, whose tokens are bytes. Keeps 16 bytes a line.
  explicit LineIndex(const TokenSource& text);

  // Lines that are not empty; the newline that ends a line belongs to it, the last line may lack it.
  std::int64_t lines() const { return static_cast<std::int64_t>(lines_.size()); }
  // The bytes of a line.
  Range line(std::int64_t index) const { return lines_.at(static_cast<std::size_t>(index)); }

 private:
  std::vector<Range> lines_;
};

}  // namespace conclave::data
