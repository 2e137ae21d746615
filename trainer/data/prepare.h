// From texts to token files: what `conclave data prepare` does.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "trainer/data/tokenizer/tokenizer.h"

namespace conclave::data {

struct PrepareOptions {
  std::string json_key = "text";  // of .jsonl files: the field with the text
  std::string end_token;          // appended to every document; "": none
  int threads = 1;
  // Called now and then, by the calling thread.
  std::function<void(std::int64_t bytes_done, std::int64_t bytes_all)> progress;
};

struct Prepared {
  std::int64_t bytes = 0;  // of the files
  std::int64_t documents = 0;
  std::int64_t tokens = 0;
};

// Writes PREFIX.idx and PREFIX.bin (Megatron's format) with the ids of `files`, in their order. A text is one
// document, a .jsonl file one a line. The result doesn't depend on the number of threads. Throws Error for
// files that are missing, a line that is no JSON or has no such field (by its number), an end token that the
// tokenizer doesn't have; nothing is left behind then.
Prepared prepare(std::span<const std::string> files, const Tokenizer& tokenizer, const std::string& prefix,
                 const PrepareOptions& options);

}  // namespace conclave::data
