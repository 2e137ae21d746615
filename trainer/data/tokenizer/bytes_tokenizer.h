// One token a byte: id and byte are the same.
#pragma once

#include "trainer/data/tokenizer/tokenizer.h"

namespace conclave::data {

class BytesTokenizer : public Tokenizer {
 public:
  std::int64_t vocab_size() const override { return 256; }
  void encode(std::string_view text, bool begins, std::vector<std::int32_t>& ids) const override;
  std::string decode(std::span<const std::int32_t> ids) const override;
  std::string token_bytes(std::int32_t id) const override { return decode({&id, 1}); }
  std::size_t cut(std::string_view, std::size_t from) const override { return from; }
  std::int64_t id_of(std::string_view token) const override;
};

}  // namespace conclave::data
