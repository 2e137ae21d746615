#include "trainer/data/tokenizer/tokenizer_json.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "comm/base/error.h"
#include "trainer/data/tokenizer/byte_level_bpe.h"
#include "trainer/data/tokenizer/metaspace_bpe.h"

namespace conclave::data {
namespace {

using Json = nlohmann::json;

constexpr const char* kMetaspace = "\u2581";

class Reader {
 public:
  explicit Reader(const std::string& path) : path_(path) {
    std::ifstream stream(path);
    try {
      json_ = Json::parse(stream);
    } catch (const Json::exception& error) {
      throw Error(fmt::format("{}: is not JSON: {}", path, error.what()));
    }
  }

  std::unique_ptr<Tokenizer> read() const {
    try {
      return read_tokenizer();
    } catch (const Json::exception& error) {
      throw Error(fmt::format("{}: is no tokenizer.json as Conclave knows it: {}", path_, error.what()));
    }
  }

 private:
  struct Normalizers {
    bool nfc = false;
    bool prepends = false;
    bool replaces = false;
  };

  std::unique_ptr<Tokenizer> read_tokenizer() const;
  Vocabulary read_vocabulary() const;
  void read_merges(Vocabulary& vocabulary) const;
  void read_added_tokens(Vocabulary& vocabulary, bool has_normalizer) const;
  Normalizers read_normalizers() const;
  std::optional<ByteLevelOptions> read_byte_level() const;
  MetaspaceOptions read_metaspace(const Vocabulary& vocabulary, const Normalizers& normalizers) const;

  // A part of the file, null if it isn't there.
  Json part(const Json& parent, const char* key) const {
    const auto found = parent.find(key);
    return found == parent.end() ? Json() : *found;
  }
  // The elements of a Sequence, or the one part itself; none for null.
  std::vector<Json> steps(const char* key, const char* list) const {
    const Json all = part(json_, key);
    if (all.is_null()) return {};
    if (all.at("type") != "Sequence") return {all};
    return all.at(list).get<std::vector<Json>>();
  }
  [[noreturn]] void refuse(const std::string& what, const Json& found) const {
    std::string text = found.dump();
    if (text.size() > 200) text = text.substr(0, 200) + "...";
    throw Error(fmt::format("{}: {} is {}, which Conclave doesn't have", path_, what, text));
  }

  std::string path_;
  Json json_;
};

Vocabulary Reader::read_vocabulary() const {
  const Json& model = json_.at("model");
  if (model.value("type", "BPE") != "BPE") refuse("the model's type", model.at("type"));
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (const Json value = part(model, key); !value.is_null() && value != "") refuse(key, value);
  }
  Vocabulary vocabulary;
  vocabulary.ids = model.at("vocab").get<std::unordered_map<std::string, std::int32_t>>();
  std::int32_t largest = -1;
  for (const auto& [token, id] : vocabulary.ids) {
    CONCLAVE_CHECK(id >= 0 && id < (1 << 24), "{}: token \"{}\" has id {}", path_, token, id);
    largest = std::max(largest, id);
  }
  vocabulary.tokens.resize(static_cast<std::size_t>(largest) + 1);
  for (const auto& [token, id] : vocabulary.ids) vocabulary.tokens[static_cast<std::size_t>(id)] = token;
  vocabulary.ignore_merges = model.value("ignore_merges", false);
  read_merges(vocabulary);
  return vocabulary;
}

// "a b", or ["a", "b"] in newer files.
void Reader::read_merges(Vocabulary& vocabulary) const {
  for (const Json& merge : json_.at("model").at("merges")) {
    std::string left;
    std::string right;
    if (merge.is_string()) {
      const auto& text = merge.get_ref<const std::string&>();
      const std::size_t space = text.find(' ');
      CONCLAVE_CHECK(space != std::string::npos, "{}: merge \"{}\" is no pair", path_, text);
      left = text.substr(0, space);
      right = text.substr(space + 1);
    } else {
      left = merge.at(0);
      right = merge.at(1);
    }
    const BytePairMerges::Merge ids{vocabulary.id(left), vocabulary.id(right), vocabulary.id(left + right)};
    CONCLAVE_CHECK(ids.left >= 0 && ids.right >= 0 && ids.merged >= 0,
                   "{}: merge of \"{}\" and \"{}\": the vocabulary lacks one of them, or what they become",
                   path_, left, right);
    vocabulary.merges.push_back(ids);
  }
}

void Reader::read_added_tokens(Vocabulary& vocabulary, bool has_normalizer) const {
  const Json all = part(json_, "added_tokens");
  if (all.is_null()) return;
  for (const Json& token : all) {
    for (const char* flag : {"single_word", "lstrip", "rstrip"}) {
      if (token.value(flag, false)) refuse(fmt::format("\"{}\" of an added token", flag), token);
    }
    if (token.value("normalized", false) && has_normalizer) refuse("\"normalized\" of an added token", token);
    AddedToken added{token.at("content"), token.at("id")};
    if (added.text.empty()) continue;
    CONCLAVE_CHECK(added.id >= 0 && added.id < (1 << 24), "{}: token \"{}\" has id {}", path_, added.text,
                   added.id);
    if (static_cast<std::size_t>(added.id) >= vocabulary.tokens.size())
      vocabulary.tokens.resize(static_cast<std::size_t>(added.id) + 1);
    vocabulary.tokens[static_cast<std::size_t>(added.id)] = added.text;
    vocabulary.added.push_back(std::move(added));
  }
}

Reader::Normalizers Reader::read_normalizers() const {
  Normalizers found;
  for (const Json& step : steps("normalizer", "normalizers")) {
    const std::string type = step.at("type");
    if (type == "NFC") {
      found.nfc = true;
    } else if (type == "Prepend" && step.at("prepend") == kMetaspace) {
      found.prepends = true;
    } else if (type == "Replace" && step.at("pattern") == Json{{"String", " "}} &&
               step.at("content") == kMetaspace) {
      found.replaces = true;
    } else {
      refuse("a normalizer", step);
    }
  }
  return found;
}

// Nothing if the pre-tokenizer isn't byte-level.
std::optional<ByteLevelOptions> Reader::read_byte_level() const {
  const std::vector<Json> all = steps("pre_tokenizer", "pretokenizers");
  if (all.empty() || all.back().at("type") != "ByteLevel") return std::nullopt;
  ByteLevelOptions options;
  const Json& byte_level = all.back();
  options.add_prefix_space = byte_level.value("add_prefix_space", true);
  if (byte_level.value("use_regex", true)) options.pattern = WordPattern::kGpt2;
  if (all.size() == 1) return options;
  const Json& split = all.front();
  const bool is_split = all.size() == 2 && split.at("type") == "Split" &&
                        split.at("behavior") == "Isolated" && !split.value("invert", false) &&
                        split.at("pattern").contains("Regex");
  if (!is_split || options.pattern.has_value()) refuse("the pre_tokenizer", json_.at("pre_tokenizer"));
  options.pattern = word_pattern(split.at("pattern").at("Regex").get<std::string>());
  if (!options.pattern) refuse("the pattern of the pre_tokenizer", split.at("pattern"));
  return options;
}

MetaspaceOptions Reader::read_metaspace(const Vocabulary& vocabulary, const Normalizers& normalizers) const {
  using Prepend = MetaspaceOptions::Prepend;
  MetaspaceOptions options;
  const std::vector<Json> all = steps("pre_tokenizer", "pretokenizers");
  if (all.empty()) {
    if (!normalizers.replaces)
      refuse("a tokenizer without byte level and without metaspaces: its normalizer",
             part(json_, "normalizer"));
    if (normalizers.prepends) options.prepend = Prepend::kEvenBeforeSpace;
  } else {
    const Json& metaspace = all.front();
    const bool is_metaspace = all.size() == 1 && metaspace.at("type") == "Metaspace" &&
                              metaspace.at("replacement") == kMetaspace && !normalizers.replaces &&
                              !normalizers.prepends;
    if (!is_metaspace) refuse("the pre_tokenizer", json_.at("pre_tokenizer"));
    // Older files have add_prefix_space in place of a scheme.
    const bool adds = metaspace.value("add_prefix_space", true);
    const std::string scheme = metaspace.value("prepend_scheme", adds ? "always" : "never");
    options.prepend = scheme == "first"   ? Prepend::kFirst
                      : scheme == "never" ? Prepend::kNever
                                          : Prepend::kAlways;
    options.split_at_spaces = metaspace.value("split", true);
  }
  const Json& model = json_.at("model");
  options.byte_fallback = model.value("byte_fallback", false);
  options.fuse_unknown = model.value("fuse_unk", false);
  if (const Json unknown = part(model, "unk_token"); unknown.is_string())
    options.unknown_id = vocabulary.id(unknown.get<std::string>());
  return options;
}

std::unique_ptr<Tokenizer> Reader::read_tokenizer() const {
  Vocabulary vocabulary = read_vocabulary();
  const Normalizers normalizers = read_normalizers();
  read_added_tokens(vocabulary, normalizers.nfc || normalizers.prepends || normalizers.replaces);
  if (std::optional<ByteLevelOptions> options = read_byte_level()) {
    if (normalizers.prepends || normalizers.replaces) refuse("the normalizer", json_.at("normalizer"));
    options->nfc = normalizers.nfc;
    return std::make_unique<ByteLevelBpe>(std::move(vocabulary), *options, path_);
  }
  if (normalizers.nfc) refuse("the normalizer", json_.at("normalizer"));
  const MetaspaceOptions options = read_metaspace(vocabulary, normalizers);
  return std::make_unique<MetaspaceBpe>(std::move(vocabulary), options);
}

}  // namespace

std::unique_ptr<Tokenizer> open_tokenizer_json(const std::string& path) { return Reader(path).read(); }

}  // namespace conclave::data
