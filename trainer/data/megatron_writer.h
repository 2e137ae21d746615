// Writes Megatron's indexed dataset (megatron_source.h), document by document.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "trainer/data/megatron_source.h"
#include "trainer/data/token_source.h"
#include "trainer/durable_file.h"

namespace conclave::data {

class MegatronWriter {
 public:
  // PREFIX.bin and PREFIX.idx, with the narrowest unsigned ids that hold [0, vocab_size) (or int32: the
  // format has no uint32). Until finish() they bear other names. Throws Error if either is there.
  MegatronWriter(const std::string& prefix, std::int64_t vocab_size);
  ~MegatronWriter();
  MegatronWriter(const MegatronWriter&) = delete;
  MegatronWriter& operator=(const MegatronWriter&) = delete;

  // The next ids of the document that is being written, in [0, vocab_size).
  void append(std::span<const std::int32_t> ids);
  // A document without ids stays out.
  void end_document();
  // Returns when both files are on the disk, under their names. Throws Error for a dataset without a token.
  void finish();

  std::int64_t documents() const { return static_cast<std::int64_t>(edges_.size()) - 1; }
  std::int64_t tokens() const { return tokens_; }
  TokenType type() const { return type_; }

 private:
  void end_sequence();

  MegatronPaths paths_;
  TokenType type_;
  DurableFile token_file_;
  std::vector<std::byte> stored_;      // ids as they are stored
  std::vector<std::int32_t> lengths_;  // of sequences: a document is one, unless it is very long
  std::vector<std::int64_t> edges_{0};
  std::int64_t tokens_ = 0;
  std::int64_t open_tokens_ = 0;  // of the sequence that is being written
  bool finished_ = false;
};

}  // namespace conclave::data
