#include "trainer/data/byte_source.h"

#include <utility>

namespace conclave::data {

TokenSource byte_source(MappedFile file) {
  const std::int64_t tokens = file.size_bytes();
  return TokenSource(std::move(file), "text", TokenType::kUInt8, {TokenSource::Run{}}, tokens);
}

}  // namespace conclave::data
