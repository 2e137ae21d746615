#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <numeric>

#include "comm/base/error.h"
#include "tests/support/data_files.h"
#include "trainer/data/open_source.h"

namespace conclave::data {
namespace {

using config::Data;
using test::bytes_of;
using test::llmc_shard;
using test::megatron_index;
using test::write_file;
using ::testing::AllOf;
using ::testing::HasSubstr;

std::vector<std::int32_t> read_all(const TokenSource& source) {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(source.tokens()));
  source.read(0, tokens);
  return tokens;
}

template <class T>
std::vector<T> some_tokens(std::int64_t count, std::int64_t modulus) {
  std::vector<T> tokens;
  for (std::int64_t i = 0; i < count; ++i) tokens.push_back(static_cast<T>(i * 7919 % modulus));
  return tokens;
}

template <class T>
std::vector<std::int32_t> as_ids(const std::vector<T>& tokens) {
  return {tokens.begin(), tokens.end()};
}

// The message of the Error that `act` throws; fails if it throws none, or asks for another exit code than 1.
template <class Act>
std::string error_of(Act act) {
  try {
    act();
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::kFailure);
    return error.what();
  }
  ADD_FAILURE() << "no Error was thrown";
  return "";
}

std::string opening_error(const std::string& path, Data::Tokenizer tokenizer = Data::pretokenized) {
  return error_of([&] { open_source(path, tokenizer); });
}

TEST(ByteSource, GivesEachByteAsAToken) {
  const TokenSource source = open_source(write_file("a.txt", std::string("Az\0\xff\xc3", 5)), Data::bytes);
  EXPECT_EQ(read_all(source), (std::vector<std::int32_t>{65, 122, 0, 255, 0xc3}));
  EXPECT_EQ(source.format(), "text");
}

TEST(TokenSource, ReadsAnyPartAndRefusesWhatIsNotThere) {
  const TokenSource source = open_source(write_file("a.txt", "abcdef"), Data::bytes);
  std::vector<std::int32_t> part(3);
  source.read(3, part);
  EXPECT_EQ(part, (std::vector<std::int32_t>{'d', 'e', 'f'}));
  EXPECT_THAT(error_of([&] { source.read(4, part); }), HasSubstr("[4, 7)"));
  EXPECT_THAT(error_of([&] { source.read(-1, part); }), HasSubstr("[-1, 2)"));
  source.read(6, std::span<std::int32_t>{});
}

TEST(NanogptSource, ReadsUInt16) {
  const auto tokens = some_tokens<std::uint16_t>(1001, 65536);
  const TokenSource source = open_source(write_file("train.bin", bytes_of(tokens)), Data::pretokenized);
  EXPECT_EQ(source.format(), "nanoGPT (uint16)");
  EXPECT_EQ(read_all(source), as_ids(tokens));
}

TEST(NanogptSource, RefusesAnOddSize) {
  const std::string path = write_file("train.bin", std::string("\0\1\2", 3));
  EXPECT_THAT(opening_error(path), AllOf(HasSubstr(path), HasSubstr("3 bytes")));
}

TEST(NanogptSource, RefusesText) {
  std::string text;
  for (int line = 0; line < 100; ++line) text += "In the beginning was the Word,\n";
  EXPECT_THAT(opening_error(write_file("text.bin", text)), HasSubstr("data.tokenizer: bytes"));
}

TEST(LlmcSource, ReadsUInt16AndUInt32) {
  const auto narrow = some_tokens<std::uint16_t>(777, 50257);
  const auto wide = some_tokens<std::uint32_t>(777, 128256);
  const TokenSource first =
      open_source(write_file("16.bin", llmc_shard(20240520, 1, narrow)), Data::pretokenized);
  const TokenSource second =
      open_source(write_file("32.bin", llmc_shard(20240801, 7, wide)), Data::pretokenized);
  EXPECT_EQ(read_all(first), as_ids(narrow));
  EXPECT_EQ(read_all(second), as_ids(wide));
  EXPECT_EQ(first.format(), "llm.c (uint16)");
  EXPECT_EQ(second.format(), "llm.c (uint32)");
}

TEST(LlmcSource, RefusesDamage) {
  const auto tokens = some_tokens<std::uint16_t>(100, 1000);
  const std::string whole = llmc_shard(20240520, 1, tokens);
  EXPECT_THAT(opening_error(write_file("header.bin", whole.substr(0, 1000))), HasSubstr("1000 bytes"));
  EXPECT_THAT(opening_error(write_file("cut.bin", whole.substr(0, whole.size() - 2))),
              AllOf(HasSubstr("1222 bytes"), HasSubstr("100 tokens"), HasSubstr("1224 bytes")));
  EXPECT_THAT(opening_error(write_file("long.bin", whole + "xx")), HasSubstr("1226 bytes"));
  EXPECT_THAT(opening_error(write_file("version.bin", llmc_shard(20240520, 7, tokens))),
              AllOf(HasSubstr("version 7"), HasSubstr("expected 1")));
}

TEST(MegatronSource, IsFoundByEitherFileAndByThePrefix) {
  const auto tokens = some_tokens<std::uint16_t>(60, 50000);
  const std::string bin = write_file("corpus.v2.bin", bytes_of(tokens));
  const std::string idx = write_file("corpus.v2.idx", megatron_index(8, {10, 0, 50}, {0, 20, 20}));
  const std::string prefix = bin.substr(0, bin.size() - 4);
  for (const std::string& path : {bin, idx, prefix}) {
    EXPECT_TRUE(source_exists(path, Data::pretokenized)) << path;
    const TokenSource source = open_source(path, Data::pretokenized);
    EXPECT_EQ(source.format(), "Megatron") << path;
    EXPECT_EQ(read_all(source), as_ids(tokens)) << path;
  }
}

template <class T>
void expect_megatron_round_trip(std::uint8_t dtype_code, std::int64_t modulus) {
  const auto tokens = some_tokens<T>(33, modulus);
  const std::string suffix = std::to_string(dtype_code);
  write_file("t" + suffix + ".bin", bytes_of(tokens));
  const std::string idx =
      write_file("t" + suffix + ".idx",
                 megatron_index(dtype_code, {30, 3}, {0, static_cast<std::int64_t>(30 * sizeof(T))}));
  EXPECT_EQ(read_all(open_source(idx, Data::pretokenized)), as_ids(tokens)) << "dtype code " << suffix;
}

TEST(MegatronSource, ReadsEveryIntegerType) {
  expect_megatron_round_trip<std::uint8_t>(1, 256);
  expect_megatron_round_trip<std::int8_t>(2, 128);
  expect_megatron_round_trip<std::int16_t>(3, 32768);
  expect_megatron_round_trip<std::int32_t>(4, 1000003);
  expect_megatron_round_trip<std::int64_t>(5, 1000003);
  expect_megatron_round_trip<std::uint16_t>(8, 65536);
}

// Sequences in another order than in the file, one of them at an odd byte.
TEST(MegatronSource, FollowsTheOrderOfTheIndex) {
  const std::string bytes = bytes_of(std::vector<std::uint16_t>{1, 2, 3}) + "x" +
                            bytes_of(std::vector<std::uint16_t>{4, 5}) +
                            bytes_of(std::vector<std::uint16_t>{6, 7, 8, 9});
  write_file("m.bin", bytes);
  const std::string idx = write_file("m.idx", megatron_index(8, {4, 3, 2}, {11, 0, 7}));
  const TokenSource source = open_source(idx, Data::pretokenized);
  EXPECT_EQ(read_all(source), (std::vector<std::int32_t>{6, 7, 8, 9, 1, 2, 3, 4, 5}));
  std::vector<std::int32_t> part(5);
  source.read(3, part);
  EXPECT_EQ(part, (std::vector<std::int32_t>{9, 1, 2, 3, 4}));
}

TEST(MegatronSource, RefusesDamage) {
  const auto tokens = some_tokens<std::uint16_t>(60, 50000);
  const std::string index = megatron_index(8, {10, 50}, {0, 20});
  const std::string bin = write_file("m.bin", bytes_of(tokens));
  const auto error_with = [](const std::string& damaged) {
    return opening_error(write_file("m.idx", damaged));
  };
  EXPECT_THAT(error_with("MMIDIDZ" + index.substr(7)), HasSubstr("does not start with MMIDIDX"));
  EXPECT_THAT(error_with(index.substr(0, 20)), HasSubstr("20 bytes"));
  EXPECT_THAT(error_with(index.substr(0, index.size() - 1)), HasSubstr("2 sequences"));
  EXPECT_THAT(error_with(index.substr(0, 9) + bytes_of(std::uint64_t{2}) + index.substr(17)),
              HasSubstr("version 2"));
  EXPECT_THAT(error_with(megatron_index(7, {10, 50}, {0, 20})), HasSubstr("dtype code 7"));
  EXPECT_THAT(error_with(megatron_index(8, {10, 51}, {0, 20})),
              AllOf(HasSubstr("sequence 1"), HasSubstr("120 bytes")));
  EXPECT_THAT(error_with(megatron_index(8, {10, -1}, {0, 20})), HasSubstr("sequence 1"));
  EXPECT_THAT(error_with(megatron_index(8, {10, 50}, {0, -20})), HasSubstr("sequence 1"));
  EXPECT_THAT(error_with(megatron_index(8, {10, 40}, {0, 20})), HasSubstr("first 100 bytes"));
  // A count that would overflow the computation of the size.
  EXPECT_THAT(error_with(index.substr(0, 18) + bytes_of(std::uint64_t{1} << 62) + index.substr(26)),
              HasSubstr("cut short"));

  write_file("m.idx", index);
  std::filesystem::remove(bin);
  EXPECT_FALSE(source_exists(bin, Data::pretokenized));
  EXPECT_THAT(opening_error(test::temporary_path("m.idx")),
              AllOf(HasSubstr("m.bin"), HasSubstr("can't be opened")));
}

TEST(OpenSource, RefusesWhatIsNoFileOfData) {
  EXPECT_THAT(opening_error(test::temporary_path("none.txt"), Data::bytes), HasSubstr("No such file"));
  EXPECT_THAT(opening_error(write_file("empty.txt", ""), Data::bytes), HasSubstr("is empty"));
  EXPECT_THAT(opening_error(::testing::TempDir(), Data::bytes), HasSubstr("is a directory"));
}

TEST(OpenSource, RefusesTokenIdsAsText) {
  const std::string shard = llmc_shard(20240520, 1, some_tokens<std::uint16_t>(10, 100));
  EXPECT_THAT(opening_error(write_file("a.bin", shard), Data::bytes),
              HasSubstr("data.tokenizer: pretokenized"));
  const std::string index = megatron_index(8, {10}, {0});
  EXPECT_THAT(opening_error(write_file("a.idx", index), Data::bytes), HasSubstr("Megatron"));
}

TEST(CheckTokenIds, NamesTheFirstIdPastTheVocabulary) {
  auto tokens = some_tokens<std::uint16_t>(100000, 50000);
  const std::string good = write_file("good.bin", bytes_of(tokens));
  EXPECT_NO_THROW(open_source(good, Data::pretokenized).check_token_ids(50000));
  tokens[70001] = 50000;
  tokens[90000] = 60000;
  const std::string bad = write_file("bad.bin", bytes_of(tokens));
  EXPECT_THAT(error_of([&] { open_source(bad, Data::pretokenized).check_token_ids(50000); }),
              AllOf(HasSubstr(bad), HasSubstr("token 70001 of 100000"), HasSubstr("id 50000"),
                    HasSubstr("[0, 50000)"), HasSubstr("to 60000")));
}

TEST(CheckTokenIds, SeesNegativeAndWideIds) {
  write_file("m.bin", bytes_of(std::vector<std::int64_t>{1, 2, std::int64_t{1} << 32, 3}));
  const std::string idx = write_file("m.idx", megatron_index(5, {4}, {0}));
  EXPECT_THAT(error_of([&] { open_source(idx, Data::pretokenized).check_token_ids(100); }),
              HasSubstr("token 2 of 4 has id 4294967296"));
  write_file("n.bin", bytes_of(std::vector<std::int16_t>{1, -2, 3}));
  const std::string negative = write_file("n.idx", megatron_index(3, {3}, {0}));
  EXPECT_THAT(error_of([&] { open_source(negative, Data::pretokenized).check_token_ids(100); }),
              HasSubstr("token 1 of 3 has id -2"));
}

}  // namespace
}  // namespace conclave::data
