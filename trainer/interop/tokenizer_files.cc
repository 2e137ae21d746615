#include "trainer/interop/tokenizer_files.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "comm/base/error.h"
#include "trainer/data/mapped_file.h"
#include "trainer/data/tokenizer/byte_level.h"
#include "trainer/durable_file.h"

namespace conclave {
namespace {

using Json = nlohmann::ordered_json;

std::string tokenizer_config_json(std::int64_t max_seq) {
  const Json json = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                     {"model_max_length", max_seq},
                     {"clean_up_tokenization_spaces", false}};
  return json.dump(2) + "\n";
}

std::string contents_of(const std::string& path) {
  const data::MappedFile file(path);
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

}  // namespace

// Byte-level BPE without a merge: the pre-tokenizer turns bytes into characters, each of which is a token.
std::string byte_tokenizer_json() {
  Json vocabulary = Json::object();
  for (int byte = 0; byte < 256; ++byte)
    vocabulary[data::byte_level_character(static_cast<std::uint8_t>(byte))] = byte;
  const Json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", false}, {"use_regex", false}};
  const Json json = {{"version", "1.0"},
                     {"truncation", nullptr},
                     {"padding", nullptr},
                     {"added_tokens", Json::array()},
                     {"normalizer", nullptr},
                     {"pre_tokenizer", byte_level},
                     {"post_processor", nullptr},
                     {"decoder", byte_level},
                     {"model",
                      {{"type", "BPE"},
                       {"dropout", nullptr},
                       {"unk_token", nullptr},
                       {"continuing_subword_prefix", nullptr},
                       {"end_of_word_suffix", nullptr},
                       {"fuse_unk", false},
                       {"byte_fallback", false},
                       {"vocab", vocabulary},
                       {"merges", Json::array()}}}};
  return json.dump(1) + "\n";
}

void write_tokenizer_files(const config::Experiment& experiment, const std::filesystem::path& directory) {
  const config::Data& data = experiment.data();
  if (data.tokenizer() == config::Data::bytes) {
    replace_file_durably(directory / "tokenizer.json", byte_tokenizer_json());
  } else if (!data.tokenizer_file().empty()) {
    const bool is_json = std::filesystem::path(data.tokenizer_file()).extension() == ".json";
    replace_file_durably(directory / (is_json ? "tokenizer.json" : "tokenizer.model"),
                         contents_of(data.tokenizer_file()));
    if (!is_json) return;  // which class reads a SentencePiece model, its owner knows
  } else {
    return;
  }
  replace_file_durably(directory / "tokenizer_config.json",
                       tokenizer_config_json(experiment.model().max_seq()));
}

}  // namespace conclave
