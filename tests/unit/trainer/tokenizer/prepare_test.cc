// `data prepare`, `data verify` and `tokenizer train`, from files to files.
#include "trainer/data/prepare.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>

#include "comm/base/error.h"
#include "tests/support/source_dir.h"
#include "tests/support/temporary_directory.h"
#include "trainer/commands/data_command.h"
#include "trainer/data/megatron_source.h"
#include "trainer/data/megatron_writer.h"
#include "trainer/data/tokenizer/sentencepiece_tokenizer.h"

namespace conclave {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;
using testing::ThrowsMessage;

std::string contents(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

std::vector<std::int32_t> tokens_of(const std::string& prefix) {
  const data::TokenSource source = data::megatron_source(data::megatron_paths(prefix));
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(source.tokens()));
  source.read(0, tokens);
  return tokens;
}

class PrepareTest : public testing::Test {
 protected:
  std::string write(const std::string& name, const std::string& text) {
    const fs::path path = directory_.path() / name;
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }
  std::string path(const std::string& name) const { return directory_.path() / name; }
  std::string golden(const std::string& name) const {
    return test::source_dir() / "tests/interop/golden/tokenizers" / name;
  }
  // About two megabytes of lines.
  std::string long_text() const {
    const std::string lines = contents(test::source_dir() / "README.md");
    std::string text;
    while (text.size() < 2'500'000) text += lines;
    return text;
  }
  test::TemporaryDirectory directory_;
};

TEST_F(PrepareTest, ThreadsChangeNothing) {
  const std::string text = long_text();
  const std::vector<std::string> files{write("long.txt", text), write("short.txt", "the end")};
  const auto tokenizer = data::open_tokenizer(golden("qwen.json"));
  std::vector<std::int32_t> expected;
  tokenizer->encode(text, true, expected);
  tokenizer->encode("the end", true, expected);
  for (const int threads : {1, 3}) {
    data::PrepareOptions options;
    options.threads = threads;
    std::int64_t last_progress = 0;
    options.progress = [&](std::int64_t done, std::int64_t) { last_progress = done; };
    const data::Prepared done = data::prepare(files, *tokenizer, path(std::to_string(threads)), options);
    EXPECT_EQ(done.documents, 2);
    EXPECT_EQ(done.tokens, static_cast<std::int64_t>(expected.size()));
    EXPECT_EQ(last_progress, static_cast<std::int64_t>(text.size() + 7));
    EXPECT_EQ(tokens_of(path(std::to_string(threads))), expected);
  }
  EXPECT_EQ(contents(path("1.idx")), contents(path("3.idx")));
}

// Layout of the index by hand, from the format's description.
TEST_F(PrepareTest, WritesTheIndexByteForByte) {
  const std::vector<std::string> files{
      write("a.jsonl", "{\"text\": \"ab\"}\n\n{\"text\": \"\"}\n{\"text\": \"c\"}\n")};
  const auto tokenizer = data::open_tokenizer("bytes");
  const data::Prepared done = data::prepare(files, *tokenizer, path("out"), {});
  EXPECT_EQ(done.documents, 2);  // one is empty
  EXPECT_EQ(contents(path("out.bin")), "abc");
  const auto number = [](auto value) {
    return std::string(reinterpret_cast<const char*>(&value), sizeof value);
  };
  std::string expected("MMIDIDX\0\0", 9);
  expected += number(std::uint64_t{1}) + number(std::uint8_t{1}) + number(std::uint64_t{2}) +
              number(std::uint64_t{3});
  expected += number(std::int32_t{2}) + number(std::int32_t{1});
  expected += number(std::int64_t{0}) + number(std::int64_t{2});
  for (const std::int64_t edge : {0, 1, 2}) expected += number(edge);
  EXPECT_EQ(contents(path("out.idx")), expected);
  EXPECT_EQ(tokens_of(path("out")), (std::vector<std::int32_t>{'a', 'b', 'c'}));
}

TEST_F(PrepareTest, IdsAreAsWideAsTheVocabularyNeeds) {
  for (const auto& [vocab_size, type] : {std::pair{std::int64_t{256}, data::TokenType::kUInt8},
                                         {257, data::TokenType::kUInt16},
                                         {65536, data::TokenType::kUInt16},
                                         {65537, data::TokenType::kInt32}}) {
    const std::string prefix = path(std::to_string(vocab_size));
    data::MegatronWriter writer(prefix, vocab_size);
    const std::vector<std::int32_t> ids{0, static_cast<std::int32_t>(vocab_size) - 1};
    writer.append(ids);
    writer.end_document();
    EXPECT_EQ(writer.type(), type);
    EXPECT_FALSE(fs::exists(prefix + ".bin"));
    writer.finish();
    EXPECT_EQ(tokens_of(prefix), ids);
  }
}

TEST_F(PrepareTest, AnEndTokenClosesEveryDocument) {
  const std::vector<std::string> files{write("a.jsonl", "{\"body\": \"x\"}\n{\"body\": \"y\"}\n")};
  const auto tokenizer = data::open_tokenizer(golden("mixtral.json"));
  data::PrepareOptions options;
  options.json_key = "body";
  options.end_token = "</s>";
  data::prepare(files, *tokenizer, path("out"), options);
  std::vector<std::int32_t> expected;
  for (const char* text : {"x", "y"}) {
    tokenizer->encode(text, true, expected);
    expected.push_back(2);
  }
  EXPECT_EQ(tokens_of(path("out")), expected);
}

TEST_F(PrepareTest, NamesWhatIsWrongAndLeavesNothing) {
  const auto tokenizer = data::open_tokenizer("bytes");
  const auto failing = [&](const std::string& file, const data::PrepareOptions& options,
                           const std::string& message) {
    const std::vector<std::string> files{file};
    EXPECT_THAT([&] { data::prepare(files, *tokenizer, path("out"), options); },
                ThrowsMessage<Error>(HasSubstr(message)));
    for (const char* name : {"out.bin", "out.idx", "out.bin.tmp", "out.idx.tmp"})
      EXPECT_FALSE(fs::exists(path(name)));
  };
  failing(write("bad.jsonl", "{\"text\": \"a\"}\nnot JSON\n"), {}, "bad.jsonl: line 2: is no JSON object");
  failing(write("other.jsonl", "{\"body\": \"a\"}\n"), {}, "line 1: has no text in \"text\"");
  failing(path("missing.txt"), {}, "missing.txt");
  failing(write("blank.jsonl", "\n\n"), {}, "no tokens");
  data::PrepareOptions options;
  options.end_token = "</s>";
  failing(write("a.txt", "a"), options, "no token \"</s>\"");
}

TEST_F(PrepareTest, LearnsATokenizer) {
  const std::vector<std::string> texts{write("text.txt", contents(test::source_dir() / "README.md"))};
  for (const bool unigram : {false, true}) {
    const std::string model = path(unigram ? "unigram.model" : "bpe.model");
    data::train_sentencepiece(texts, model, {.vocab_size = 600, .unigram = unigram});
    const auto tokenizer = data::open_tokenizer(model);
    EXPECT_EQ(tokenizer->vocab_size(), 600);
    std::vector<std::int32_t> ids;
    const std::string text = "experts  and a 日 line";
    tokenizer->encode(text, true, ids);
    EXPECT_EQ(tokenizer->decode(ids), text);
    EXPECT_LT(ids.size(), text.size());
  }
  EXPECT_THAT(
      [&] { data::train_sentencepiece(std::vector{path("none.txt")}, path("x.model"), {.vocab_size = 600}); },
      ThrowsMessage<Error>(HasSubstr("none.txt: no such text")));
}

// The command line: exit codes and what it says.
class DataCommand : public PrepareTest {
 protected:
  int command(const std::string& line) {
    CLI::App app;
    std::function<int()> selected;
    add_data_command(app, selected);
    app.parse("data " + line);
    testing::internal::CaptureStdout();
    const int code = selected();
    output_ = testing::internal::GetCapturedStdout();
    return code;
  }
  std::string output_;
};

TEST_F(DataCommand, PreparesInspectsAndVerifies) {
  const std::string text = write("text.txt", "one line\nand another");
  EXPECT_EQ(command("prepare " + text + " --tokenizer bytes --out " + path("p")), 0);
  EXPECT_THAT(output_, AllOf(HasSubstr("1 documents, 20 tokens"), HasSubstr("model.vocab_size=256")));
  EXPECT_EQ(command("inspect " + path("p.bin") + " --tokenizer bytes --samples 1 --tokens 9"), 0);
  EXPECT_THAT(output_, AllOf(HasSubstr("20 tokens"), HasSubstr("from token 0: one line\\n\n")));
  EXPECT_EQ(command("inspect " + path("p.bin") + " --samples 1 --tokens 2"), 0);
  EXPECT_THAT(output_, HasSubstr("111 110"));
  EXPECT_EQ(command("verify " + path("p.bin") + " --tokenizer bytes"), 0);
  EXPECT_THAT(output_, HasSubstr("good"));
  EXPECT_EQ(command("verify " + path("p.bin") + " --vocab-size 110"), 1);
  EXPECT_THAT(output_, AllOf(HasSubstr("DAMAGED"), HasSubstr("token 0 of 20 has id 111, outside [0, 110)")));
  fs::resize_file(path("p.bin"), 19);
  EXPECT_EQ(command("verify " + path("p.bin") + " --tokenizer bytes"), 1);
  EXPECT_THAT(output_, HasSubstr("DAMAGED"));
}

}  // namespace
}  // namespace conclave
