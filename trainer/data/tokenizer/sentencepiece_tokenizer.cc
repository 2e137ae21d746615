#include "trainer/data/tokenizer/sentencepiece_tokenizer.h"

#include <array>
#include <cstring>
#include <filesystem>

#include "comm/base/error.h"
#include "trainer/data/tokenizer/metaspace.h"
#include "trainer/data/tokenizer/sentencepiece_library.h"
#include "trainer/data/tokenizer/shelf.h"
#include "trainer/data/tokenizer/utf8.h"
#include "trainer/data/tokenizer/worker_process.h"
#include "trainer/data/tokenizer/worker_protocol.h"

namespace conclave::data {
namespace {

std::vector<std::int32_t> integers(std::string_view bytes) {
  std::vector<std::int32_t> values(bytes.size() / sizeof(std::int32_t));
  if (!bytes.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

// A process for each thread that asks at the same time.
class SentencePieceTokenizer : public Tokenizer {
 public:
  explicit SentencePieceTokenizer(const std::string& path)
      : libraries_([path] { return std::make_unique<SentencePieceLibrary>(path); }) {
    try {
      const std::vector<std::int32_t> greeting = integers(libraries_.take()->process().greeting());
      vocab_size_ = greeting.at(0);
      words_stand_apart_ = greeting.at(1) != 0;
    } catch (const Error& error) {
      throw Error(fmt::format("{}: is no SentencePiece model: {}", path, error.what()));
    }
  }

  std::int64_t vocab_size() const override { return vocab_size_; }

  void encode(std::string_view text, bool begins, std::vector<std::int32_t>& ids) const override {
    // The library puts a space before a text: the one at which it was cut.
    if (!begins && words_stand_apart_ && text.starts_with(' ')) text.remove_prefix(1);
    std::vector<std::int32_t> found;
    encode_readable(std::array{with_replacements(text)}, {&found, 1});
    ids.insert(ids.end(), found.begin(), found.end());
  }

  void encode_texts(std::span<const std::string> texts,
                    std::span<std::vector<std::int32_t>> ids) const override {
    std::vector<std::string> readable;
    readable.reserve(texts.size());
    for (const std::string& text : texts) readable.push_back(with_replacements(text));
    encode_readable(readable, ids);
  }

  std::string decode(std::span<const std::int32_t> ids) const override {
    for (const std::int32_t id : ids) checked_id(id, vocab_size());
    return libraries_.take()->process().call(WorkerRequest::kDecode,
                                             {reinterpret_cast<const char*>(ids.data()), ids.size_bytes()});
  }

  std::string token_bytes(std::int32_t id) const override {
    checked_id(id, vocab_size());
    return with_spaces(libraries_.take()->process().call(WorkerRequest::kToken,
                                                         {reinterpret_cast<const char*>(&id), sizeof id}));
  }

  // Between words where they stand apart; what other models may join, only the library knows.
  std::size_t cut(std::string_view text, std::size_t from) const override {
    return words_stand_apart_ ? single_space(text, from) : text.size();
  }

  std::int64_t id_of(std::string_view token) const override {
    return integers(libraries_.take()->process().call(WorkerRequest::kId, token)).at(0);
  }

 private:
  void encode_readable(std::span<const std::string> texts, std::span<std::vector<std::int32_t>> ids) const {
    const auto library = libraries_.take();
    if (words_stand_apart_) {
      library->encode_words(texts, ids);
    } else {
      library->encode(texts, ids);
    }
  }

  mutable Shelf<SentencePieceLibrary> libraries_;
  std::int64_t vocab_size_ = 0;
  bool words_stand_apart_ = false;  // the ids of a text are those of its words
};

}  // namespace

std::unique_ptr<Tokenizer> open_sentencepiece(const std::string& path) {
  return std::make_unique<SentencePieceTokenizer>(path);
}

void train_sentencepiece(std::span<const std::string> texts, const std::string& path,
                         const SentencePieceTraining& training) {
  std::string inputs;
  for (const std::string& text : texts) {
    CONCLAVE_CHECK(std::filesystem::is_regular_file(text), "{}: no such text", text);
    CONCLAVE_CHECK(text.find(',') == std::string::npos,
                   "{}: SentencePiece takes no path with a comma; give the file another name", text);
    inputs += (inputs.empty() ? "" : ",") + text;
  }
  CONCLAVE_CHECK(path.ends_with(".model"), "{}: name the tokenizer something.model", path);
  const std::string prefix = path.substr(0, path.size() - std::string(".model").size());
  const std::string arguments = fmt::format(
      "--input={} --model_prefix={} --vocab_size={} --model_type={} --byte_fallback=true "
      "--normalization_rule_name=identity --remove_extra_whitespaces=false --character_coverage=0.9995 "
      "--minloglevel=2",
      inputs, prefix, training.vocab_size, training.unigram ? "unigram" : "bpe");
  try {
    WorkerProcess("").call(WorkerRequest::kTrain, arguments);
  } catch (const Error& error) {
    throw Error(fmt::format("SentencePiece can't learn {} tokens from {}: {}", training.vocab_size, inputs,
                            error.what()));
  }
}

}  // namespace conclave::data
