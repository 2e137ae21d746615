// SEAM: text to token ids and back.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace conclave::data {

// Encoding and decoding are const and thread-safe.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Ids are in [0, vocab_size()).
  virtual std::int64_t vocab_size() const = 0;

  // Appends the ids of a text, without tokens that mark its beginning or end. `text` is any bytes; what is no
  // UTF-8 is read as U+FFFD, except by `bytes`. `begins`: false for a part that follows a cut.
  virtual void encode(std::string_view text, bool begins, std::vector<std::int32_t>& ids) const = 0;

  // The same for whole texts, each with a list of ids of its own: texts and ids are of equal size. For many
  // short texts it can be much faster.
  virtual void encode_texts(std::span<const std::string> texts,
                            std::span<std::vector<std::int32_t>> ids) const;

  // The bytes that the ids stand for. Throws Error for an id outside the vocabulary.
  virtual std::string decode(std::span<const std::int32_t> ids) const = 0;

  // The bytes of one token where it stands within a text, a leading space and parts of characters included;
  // of one that stands for none, such as <s>, its name. "" for an id that is given to no token. Throws Error
  // for an id outside the vocabulary.
  virtual std::string token_bytes(std::int32_t id) const = 0;

  // The first place from `from` on where `text` may be cut: the ids of its parts, one after the other, are
  // those of the whole. text.size() if there is none.
  virtual std::size_t cut(std::string_view text, std::size_t from) const = 0;

  // The id of a token by its name ("</s>"), or -1.
  virtual std::int64_t id_of(std::string_view token) const = 0;
};

// "bytes", the path of a tokenizer.json (byte-level BPE with the pre-tokenizers of GPT-2, Qwen or Llama 3, or
// SentencePiece BPE as of Mixtral and Llama) or of a SentencePiece model. Throws Error naming the file and
// what in it isn't understood.
std::unique_ptr<Tokenizer> open_tokenizer(const std::string& name);

// Checks and takes apart one id, for decoders.
std::size_t checked_id(std::int32_t id, std::int64_t vocab_size);

}  // namespace conclave::data
