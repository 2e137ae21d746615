// Ids of odd strings as Hugging Face tokenizers and SentencePiece give them (tests/interop/golden/tokenizers,
// made by tests/interop/make_golden_tokenizers.py).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "comm/base/error.h"
#include "tests/support/source_dir.h"
#include "tests/support/temporary_directory.h"
#include "trainer/data/tokenizer/pre_tokenizer.h"
#include "trainer/data/tokenizer/tokenizer.h"
#include "trainer/data/tokenizer/utf8.h"
#include "trainer/interop/tokenizer_files.h"

namespace conclave {
namespace {

using data::open_tokenizer;
using testing::HasSubstr;
using testing::ThrowsMessage;

std::filesystem::path golden() { return test::source_dir() / "tests/interop/golden/tokenizers"; }

nlohmann::json golden_ids() {
  std::ifstream stream(golden() / "ids.json");
  return nlohmann::json::parse(stream);
}

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (std::size_t i = 0; i < hex.size(); i += 2)
    bytes.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  return bytes;
}

std::vector<std::int32_t> encode(const data::Tokenizer& tokenizer, std::string_view text) {
  std::vector<std::int32_t> ids;
  tokenizer.encode(text, true, ids);
  return ids;
}

class GoldenTokenizer : public testing::TestWithParam<const char*> {};

TEST_P(GoldenTokenizer, GivesTheIdsOfTheReference) {
  const auto tokenizer = open_tokenizer(golden() / GetParam());
  const nlohmann::json all = golden_ids();
  const nlohmann::json& expected = all.at("ids").at(GetParam());
  ASSERT_GT(expected.size(), 40U);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const std::string text = from_hex(all.at("strings").at(i));
    EXPECT_EQ(encode(*tokenizer, text), expected.at(i).get<std::vector<std::int32_t>>())
        << "string " << i << ": " << text;
  }
}

// Encoded together, and twice, so that all words have been seen before.
TEST_P(GoldenTokenizer, TextsTogetherHaveTheIdsOfEach) {
  const auto tokenizer = open_tokenizer(golden() / GetParam());
  const nlohmann::json all = golden_ids();
  std::vector<std::string> texts;
  for (const auto& hex : all.at("strings")) texts.push_back(from_hex(hex));
  for (int round = 0; round < 2; ++round) {
    std::vector<std::vector<std::int32_t>> ids(texts.size());
    tokenizer->encode_texts(texts, ids);
    for (std::size_t i = 0; i < texts.size(); ++i)
      EXPECT_EQ(ids[i], all.at("ids").at(GetParam()).at(i).get<std::vector<std::int32_t>>()) << texts[i];
  }
}

// What was encoded comes back, but for what is no UTF-8, compositions and SentencePiece's own spaces.
TEST_P(GoldenTokenizer, DecodesWhatItEncoded) {
  const std::string name = GetParam();
  const auto tokenizer = open_tokenizer(golden() / name);
  for (const char* text : {"Hello, world!\n  two lines", "x = y[0] + z_1;\n\tif", "naïve 日本語 😀", "a"}) {
    EXPECT_EQ(tokenizer->decode(encode(*tokenizer, text)), text);
  }
  EXPECT_THROW(tokenizer->decode(std::vector<std::int32_t>{-1}), Error);
  EXPECT_THROW(
      tokenizer->decode(std::vector<std::int32_t>{static_cast<std::int32_t>(tokenizer->vocab_size())}),
      Error);
}

// Token by token: the same text, but for the space that some put before it.
TEST_P(GoldenTokenizer, TheBytesOfTokensMakeUpTheText) {
  const auto tokenizer = open_tokenizer(golden() / GetParam());
  for (const std::string text : {"Hello, world!\n  two lines", "x = y[0] + z_1;\n\tif", "naïve 日本語 😀"}) {
    std::string joined;
    for (const std::int32_t id : encode(*tokenizer, text)) joined += tokenizer->token_bytes(id);
    EXPECT_TRUE(joined == text || joined == " " + text) << joined;
  }
  const bool is_byte_level = tokenizer->id_of("<|end|>") == 0;
  EXPECT_EQ(tokenizer->token_bytes(1 - is_byte_level), is_byte_level ? "<|end|>" : "<s>");
  EXPECT_THROW(tokenizer->token_bytes(-1), Error);
  EXPECT_THROW(tokenizer->token_bytes(static_cast<std::int32_t>(tokenizer->vocab_size())), Error);
}

// All strings together, cut wherever that is allowed: the ids are those of the whole.
TEST_P(GoldenTokenizer, PartsHaveTheIdsOfTheWhole) {
  const auto tokenizer = open_tokenizer(golden() / GetParam());
  const nlohmann::json all = golden_ids();
  std::string text;
  for (int round = 0; round < 2; ++round) {
    for (const auto& hex : all.at("strings")) text += from_hex(hex) + "word\nnext line";
  }
  std::vector<std::int32_t> ids;
  int parts = 0;
  for (std::string_view rest = text; !rest.empty(); ++parts) {
    const std::size_t cut = tokenizer->cut(rest, 1);
    tokenizer->encode(rest.substr(0, cut), parts == 0, ids);
    rest.remove_prefix(cut);
  }
  EXPECT_EQ(ids, encode(*tokenizer, text));
  EXPECT_GT(parts, 20);
}

INSTANTIATE_TEST_SUITE_P(Files, GoldenTokenizer,
                         testing::Values("gpt2.json", "qwen.json", "llama3.json", "mixtral.json",
                                         "metaspace_first.json", "metaspace_split.json", "bpe.model"),
                         [](const auto& file) {
                           std::string name = file.param;
                           std::ranges::replace(name, '.', '_');
                           return name;
                         });

// The tokenizer.json that an export of a byte model writes, read back: byte and id are the same.
TEST(ByteTokenizerJson, GivesEveryByteItsValue) {
  const test::TemporaryDirectory directory;
  std::ofstream(directory.path() / "tokenizer.json") << byte_tokenizer_json();
  const auto exported = open_tokenizer(directory.path() / "tokenizer.json");
  const auto bytes = open_tokenizer("bytes");
  EXPECT_EQ(exported->vocab_size(), bytes->vocab_size());
  const nlohmann::json all = golden_ids();
  for (const auto& hex : all.at("strings")) {
    const std::string text = data::with_replacements(from_hex(hex));
    EXPECT_EQ(encode(*exported, text), encode(*bytes, text)) << text;
  }
  std::string every_byte;
  for (int byte = 0; byte < 256; ++byte) every_byte.push_back(static_cast<char>(byte));
  EXPECT_EQ(bytes->decode(encode(*bytes, every_byte)), every_byte);
}

TEST(WithReplacements, CutsWhatIsNoUtf8AsUnicodeRecommends) {
  const std::string kMark = "\uFFFD";
  EXPECT_EQ(data::with_replacements("aé日😀"), "aé日😀");
  EXPECT_EQ(data::with_replacements("\xff"), kMark);
  EXPECT_EQ(data::with_replacements("\xe2\x82 "), kMark + " ");               // one cut, two bytes
  EXPECT_EQ(data::with_replacements("\xed\xa0\x80"), kMark + kMark + kMark);  // a surrogate
  EXPECT_EQ(data::with_replacements("\xc0\xaf"), kMark + kMark);              // overlong
  EXPECT_EQ(data::with_replacements("\xf4\x90\x80\x80"), kMark + kMark + kMark + kMark);
}

class DamagedTokenizer : public testing::Test {
 protected:
  // golden gpt2.json with a part replaced.
  void expect_refused(const char* part, const nlohmann::json& value, const std::string& message) {
    std::ifstream stream(golden() / "gpt2.json");
    auto json = nlohmann::json::parse(stream);
    json[nlohmann::json::json_pointer(part)] = value;
    const std::string path = directory_.path() / "tokenizer.json";
    std::ofstream(path) << json;
    EXPECT_THAT([&] { open_tokenizer(path); }, ThrowsMessage<Error>(HasSubstr(message)));
  }
  test::TemporaryDirectory directory_;
};

TEST_F(DamagedTokenizer, NamesWhatItDoesNotHave) {
  expect_refused("/model/type", "WordPiece", "the model's type is \"WordPiece\"");
  expect_refused("/normalizer", {{"type", "Lowercase"}}, "a normalizer is {\"type\":\"Lowercase\"}");
  expect_refused("/pre_tokenizer", {{"type", "Whitespace"}}, "{\"type\":\"Whitespace\"}");
  expect_refused(
      "/pre_tokenizer",
      {{"type", "Sequence"},
       {"pretokenizers",
        {{{"type", "Split"}, {"pattern", {{"Regex", "x+"}}}, {"behavior", "Isolated"}, {"invert", false}},
         {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}},
      "the pattern of the pre_tokenizer is {\"Regex\":\"x+\"}");
  expect_refused("/model/merges/0", "nonsense pair", "merge of \"nonsense\" and \"pair\"");
  expect_refused("/model/vocab", {{"a", 0}}, "merge of");
  expect_refused("/added_tokens/0/lstrip", true, "\"lstrip\" of an added token");
  EXPECT_THAT([] { open_tokenizer("nowhere.json"); }, ThrowsMessage<Error>(HasSubstr("no such file")));
  std::ofstream(directory_.path() / "text.model") << "no model";
  EXPECT_THAT([&] { open_tokenizer(directory_.path() / "text.model"); },
              ThrowsMessage<Error>(HasSubstr("is no SentencePiece model")));
}

}  // namespace
}  // namespace conclave
