#include <filesystem>

#include "comm/base/error.h"
#include "trainer/data/tokenizer/bytes_tokenizer.h"
#include "trainer/data/tokenizer/sentencepiece_tokenizer.h"
#include "trainer/data/tokenizer/tokenizer.h"
#include "trainer/data/tokenizer/tokenizer_json.h"

namespace conclave::data {

std::unique_ptr<Tokenizer> open_tokenizer(const std::string& name) {
  if (name == "bytes") return std::make_unique<BytesTokenizer>();
  CONCLAVE_CHECK(std::filesystem::is_regular_file(name),
                 "tokenizer {}: no such file; valid: bytes, a tokenizer.json or a SentencePiece model", name);
  if (std::filesystem::path(name).extension() == ".json") return open_tokenizer_json(name);
  return open_sentencepiece(name);
}

void Tokenizer::encode_texts(std::span<const std::string> texts,
                             std::span<std::vector<std::int32_t>> ids) const {
  for (std::size_t i = 0; i < texts.size(); ++i) encode(texts[i], true, ids[i]);
}

std::size_t checked_id(std::int32_t id, std::int64_t vocab_size) {
  CONCLAVE_CHECK(id >= 0 && id < vocab_size, "token id {} is outside the tokenizer's vocabulary of {}", id,
                 vocab_size);
  return static_cast<std::size_t>(id);
}

}  // namespace conclave::data
