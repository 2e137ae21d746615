// A long sequence of token ids in a mapped file. The formats differ only in where their tokens lie and how
// wide an id is; each has a file beside this one that works that out.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "trainer/data/mapped_file.h"

namespace conclave::data {

// How one id is stored.
enum class TokenType : std::uint8_t { kUInt8, kInt8, kInt16, kUInt16, kInt32, kUInt32, kInt64 };

// Bytes of one id.
std::int64_t size_of(TokenType type);

class TokenSource {
 public:
  // Tokens that lie side by side in the file, up to the next run's first token.
  struct Run {
    std::int64_t first_token = 0;
    std::int64_t first_byte = 0;
  };

  // `runs` are ordered by first_token, start at token 0 and hold `tokens` tokens together, all inside `file`.
  TokenSource(MappedFile file, std::string format, TokenType type, std::vector<Run> runs,
              std::int64_t tokens);

  // For messages: the path of the file and the format's name ("text", "nanoGPT", ...).
  const std::string& path() const { return file_.path(); }
  const std::string& format() const { return format_; }

  std::int64_t tokens() const { return tokens_; }

  // Reads tokens [first, first + out.size()); throws Error if they are not all there.
  void read(std::int64_t first, std::span<std::int32_t> out) const;

  // Throws Error that names the first id outside [0, vocab_size). Reads the whole file, unless its ids are
  // too narrow to be wrong.
  void check_token_ids(std::int64_t vocab_size) const;

 private:
  std::int64_t run_end(std::size_t run) const;

  MappedFile file_;
  std::string format_;
  TokenType type_;
  std::vector<Run> runs_;
  std::int64_t tokens_;
};

}  // namespace conclave::data
