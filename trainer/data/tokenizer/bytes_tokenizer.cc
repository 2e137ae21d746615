#include "trainer/data/tokenizer/bytes_tokenizer.h"

namespace conclave::data {

void BytesTokenizer::encode(std::string_view text, bool, std::vector<std::int32_t>& ids) const {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(text.data());
  ids.insert(ids.end(), bytes, bytes + text.size());
}

std::string BytesTokenizer::decode(std::span<const std::int32_t> ids) const {
  std::string bytes;
  bytes.reserve(ids.size());
  for (const std::int32_t id : ids) bytes.push_back(static_cast<char>(checked_id(id, vocab_size())));
  return bytes;
}

std::int64_t BytesTokenizer::id_of(std::string_view token) const {
  return token.size() == 1 ? static_cast<std::uint8_t>(token[0]) : -1;
}

}  // namespace conclave::data
