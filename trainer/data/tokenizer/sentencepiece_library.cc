#include "trainer/data/tokenizer/sentencepiece_library.h"

#include <algorithm>
#include <cstring>

#include "trainer/data/tokenizer/worker_protocol.h"

namespace conclave::data {
namespace {

void append_integers(std::string_view bytes, std::vector<std::int32_t>& values) {
  const std::size_t before = values.size();
  values.resize(before + bytes.size() / sizeof(std::int32_t));
  if (!bytes.empty()) std::memcpy(values.data() + before, bytes.data(), bytes.size());
}

}  // namespace

std::size_t single_space(std::string_view text, std::size_t from) {
  const auto is_visible = [](char c) { return c > ' ' && c <= '~'; };
  for (std::size_t at = std::max<std::size_t>(from, 1); at + 1 < text.size(); ++at) {
    if (text[at] == ' ' && is_visible(text[at - 1]) && is_visible(text[at + 1])) return at;
  }
  return text.size();
}

void SentencePieceLibrary::encode(std::span<const std::string> texts,
                                  std::span<std::vector<std::int32_t>> ids) {
  const std::vector<std::string_view> views(texts.begin(), texts.end());
  const std::string answer = process_.call(WorkerRequest::kEncode, joined(views));
  const std::vector<std::string_view> results = pieces_of(answer);
  for (std::size_t i = 0; i < texts.size(); ++i) append_integers(results.at(i), ids[i]);
}

void SentencePieceLibrary::encode_words(std::span<const std::string> texts,
                                        std::span<std::vector<std::int32_t>> ids) {
  constexpr std::size_t kMostKeptBytes = std::size_t{1} << 24;
  if (kept_bytes_ > kMostKeptBytes) forget_words();
  found_.clear();
  ends_.clear();
  unseen_.clear();
  for (const std::string& text : texts) {
    find_words(text);
    ends_.push_back(found_.size());
  }
  ask_for_unseen();
  for (std::size_t i = 0, word = 0; i < texts.size(); ++i) {
    for (; word < ends_[i]; ++word) ids[i].insert(ids[i].end(), found_[word]->begin(), found_[word]->end());
  }
}

void SentencePieceLibrary::find_words(std::string_view text) {
  for (std::size_t end = 0; !text.empty(); text.remove_prefix(std::min(end + 1, text.size()))) {
    end = single_space(text, 1);
    const std::string_view word = text.substr(0, end);
    auto at = words_.find(word);
    if (at == words_.end()) {
      at = words_.emplace(word, std::vector<std::int32_t>()).first;
      unseen_.push_back(&*at);
      kept_bytes_ += word.size();
    }
    found_.push_back(&at->second);
  }
}

void SentencePieceLibrary::ask_for_unseen() {
  if (unseen_.empty()) return;
  std::vector<std::string_view> texts;
  texts.reserve(unseen_.size());
  for (const IdsOfWords::value_type* word : unseen_) texts.push_back(word->first);
  try {
    const std::string answer = process_.call(WorkerRequest::kEncode, joined(texts));
    const std::vector<std::string_view> results = pieces_of(answer);
    for (std::size_t i = 0; i < unseen_.size(); ++i) append_integers(results.at(i), unseen_[i]->second);
  } catch (...) {
    forget_words();  // some have no ids yet
    throw;
  }
}

void SentencePieceLibrary::forget_words() {
  words_.clear();
  kept_bytes_ = 0;
}

}  // namespace conclave::data
