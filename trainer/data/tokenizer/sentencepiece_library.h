// The SentencePiece library as one thread asks it: a process, and the ids of words that it has encoded.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/data/tokenizer/word_cache.h"
#include "trainer/data/tokenizer/worker_process.h"

namespace conclave::data {

// The first space from `from` on that stands alone between two visible characters of ASCII; text.size() if
// there is none. Where the words of a model stand apart, the ids of a text are those of what comes before it
// and of what comes after it.
std::size_t single_space(std::string_view text, std::size_t from);

class SentencePieceLibrary {
 public:
  // Throws Error if the process can't be started or can't read the model.
  explicit SentencePieceLibrary(const std::string& model) : process_(model) {}

  WorkerProcess& process() { return process_; }

  // Appends the ids of each text, which is valid UTF-8, to the list of the same index.
  void encode(std::span<const std::string> texts, std::span<std::vector<std::int32_t>> ids);

  // The same for models whose words stand apart. Most words of a text have been seen before, and their ids
  // are kept; the others of all texts go in one request. (The library's own time grows faster than a text.)
  void encode_words(std::span<const std::string> texts, std::span<std::vector<std::int32_t>> ids);

 private:
  void find_words(std::string_view text);
  void ask_for_unseen();
  void forget_words();

  WorkerProcess process_;
  IdsOfWords words_;
  std::size_t kept_bytes_ = 0;

  // Of the texts that are being encoded:
  std::vector<const std::vector<std::int32_t>*> found_;  // the ids of their words, in their order
  std::vector<std::size_t> ends_;                        // of each text in found_
  std::vector<IdsOfWords::value_type*> unseen_;
};

}  // namespace conclave::data
