#include "trainer/data/line_index.h"

#include <algorithm>

namespace conclave::data {

LineIndex::LineIndex(const TokenSource& text) {
  constexpr std::int64_t kBlock = 1 << 16;
  std::vector<std::int32_t> block;
  std::int64_t line_begin = 0;
  for (std::int64_t first = 0; first < text.tokens(); first += kBlock) {
    block.resize(static_cast<std::size_t>(std::min(kBlock, text.tokens() - first)));
    text.read(first, block);
    for (std::size_t i = 0; i < block.size(); ++i) {
      if (block[i] != '\n') continue;
      const std::int64_t newline = first + static_cast<std::int64_t>(i);
      if (newline > line_begin) lines_.push_back({line_begin, newline + 1});
      line_begin = newline + 1;
    }
  }
  if (text.tokens() > line_begin) lines_.push_back({line_begin, text.tokens()});
}

}  // namespace conclave::data
