// What inspect prints, to the letter.
#include "trainer/inspect/trace_tables.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <vector>

#include "tests/support/small_trace.h"
#include "trainer/inspect/inspect_json.h"
#include "trainer/inspect/token_text.h"

namespace conclave {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(ChoicesText, FewManyAndNone) {
  EXPECT_EQ(choices_text({}), "-");
  EXPECT_EQ(choices_text({{3, 0.62F}, {7, 0.38F}}), "e3 .62 e7 .38");
  EXPECT_EQ(choices_text({{0, 1.0F}, {11, 0.004F}, {2, 2.5F}, {3, 12.3F}}), "e0 1.0 e11 .00 e2 2.5 e3 12");
  std::vector<Choice> dense;
  for (int e = 0; e < 16; ++e) dense.push_back({e, 1.0F / 16});
  EXPECT_EQ(choices_text(dense), "e0 .06 e1 .06 e2 .06 e3 .06 +12 .75");
}

TEST(TokenTable, Plain) {
  EXPECT_EQ(token_table(test::small_trace(), {}),
            "   token  layer 0        layer 2\n"
            "---------------------------------------------\n"
            "0  a      e3 .75 e1 .25  e0 .50 e1 .30 e2 .20\n"
            "1  B      e3 .60 e0 .40  e2 .80 e0 .10 e1 .10\n"
            "2  \\n     -              e1 .40 e0 .30 e2 .30\n"
            "3  \\xc3   e3 1.0         e0 1.0 e1 .00 e2 .00\n");
}

TEST(TokenTable, ColourLeavesTheLayoutAlone) {
  const std::string plain = token_table(test::small_trace(), {});
  std::string coloured = token_table(test::small_trace(), {.colour = true});
  EXPECT_THAT(coloured, HasSubstr("\x1b[38;5;"));
  for (std::size_t at; (at = coloured.find('\x1b')) != std::string::npos;)
    coloured.erase(at, coloured.find('m', at) - at + 1);
  EXPECT_EQ(coloured, plain);
}

TEST(TokenTable, SaysWhatDoesNotFit) {
  const std::string table = token_table(test::small_trace(), {.columns = 30, .tokens = 2});
  EXPECT_THAT(table, HasSubstr("(2 more tokens;"));
  EXPECT_THAT(table, HasSubstr("(layers from 2 on don't fit into 30 columns: choose some by --layers)"));
  EXPECT_THAT(table, Not(HasSubstr("e2 .20")));
  // The first layer is shown however narrow the terminal is.
  EXPECT_THAT(token_table(test::small_trace(), {.columns = 5}), HasSubstr("e3 .75"));
}

TEST(TokenTable, NamesSourcesAndIds) {
  RoutingTrace trace = test::small_trace();
  trace.tokens_are_bytes = false;
  trace.tokens[1] = 50256;
  trace.sources = {"kjv", "cpp"};
  trace.source_of_token = {0, 0, 1, 1};
  const std::string table = token_table(trace, {});
  EXPECT_THAT(table, HasSubstr("-\nkjv\n0  97"));
  EXPECT_THAT(table, HasSubstr("1  50256  e3 .60"));
  EXPECT_THAT(table, HasSubstr("\ncpp\n2  10"));
}

TEST(SummaryTables, ALineALayer) {
  const RoutingTrace trace = test::small_trace();
  const std::string tables = summary_tables(trace, summarise(trace));
  EXPECT_THAT(tables, HasSubstr("    0           1.25           2.40         0.685           0.547  1 of 4"));
  EXPECT_THAT(tables, HasSubstr("layer 0   |\u2583\u2583 \u2588| e3 60% e0 20% e1 20%\n"));
  EXPECT_THAT(tables, HasSubstr("upper case        1  e0 50% e3 50%"));
  EXPECT_THAT(tables, HasSubstr("newline           1  -"));
  EXPECT_THAT(tables, Not(HasSubstr("digit")));
  EXPECT_THAT(tables, Not(HasSubstr("source")));
}

TEST(SummaryTables, PaddingIsShownAndNotCounted) {
  RoutingTrace trace = test::small_trace();
  trace.tokens[2] = kNoToken;
  EXPECT_THAT(token_table(trace, {}), HasSubstr("2  pad    -  "));
  EXPECT_THAT(page_texts(trace, 4), testing::ElementsAre("a", "B", "pad", "\\xc3"));
  const std::string tables = summary_tables(trace, summarise(trace));
  EXPECT_THAT(tables, HasSubstr("    0           1.67  "));
  EXPECT_THAT(tables, Not(HasSubstr("control")));
}

TEST(SummaryTables, ExpertsBySourceOfSeveral) {
  RoutingTrace trace = test::small_trace();
  trace.sources = {"kjv", "cpp"};
  trace.source_of_token = {0, 0, 1, 1};
  EXPECT_THAT(summary_tables(trace, summarise(trace)), HasSubstr("     3  50.0% *  100.0% *"));
}

TEST(LoadMarks, ABlankMeansNone) {
  EXPECT_EQ(load_marks({0, 1, 500, 1000}), " \u2581\u2584\u2588");
  EXPECT_EQ(load_marks({0, 0}), "  ");
  EXPECT_EQ(load_marks({}), "");
}

TEST(EvolutionTable, ALineAStep) {
  const RoutingTrace trace = test::small_trace();
  const LoadEvolution evolution = {.steps = {100, 200},
                                   .loads = {{{1, 1, 1, 1}, {0, 0, 0, 4}}, {{1, 1, 1}, {3, 0, 0}}}};
  EXPECT_THAT(evolution_table(evolution, summarise(trace)),
              HasSubstr(" 200  |   \u2588|       4.00  |\u2588  |        3.00"));
}

TEST(InspectJson, HoldsEveryExpertOfEveryToken) {
  const RoutingTrace trace = test::small_trace();
  const auto json = nlohmann::json::parse(inspect_json("it \"is\" <this>", trace, summarise(trace), 0));
  EXPECT_EQ(json["title"], "it \"is\" <this>");
  ASSERT_EQ(json["tokens"].size(), 4U);
  EXPECT_EQ(json["tokens"][1]["layers"][0][0][0], 3);
  EXPECT_NEAR(json["tokens"][1]["layers"][0][0][1].get<double>(), 0.6, 1e-6);
  EXPECT_EQ(json["tokens"][2]["layers"][0].size(), 0U);
  EXPECT_EQ(json["tokens"][3]["text"], "\\xc3");
  EXPECT_EQ(json["layers"][0]["load"], (std::vector<int>{1, 1, 0, 3}));
  EXPECT_EQ(nlohmann::json::parse(inspect_json("", trace, summarise(trace), 1))["tokens"].size(), 1U);
}

TEST(ByteClass, CoversEveryByte) {
  std::array<int, kByteClassNames.size()> counts{};
  for (int byte = 0; byte < 256; ++byte) ++counts[static_cast<std::size_t>(byte_class(byte))];
  EXPECT_THAT(counts, testing::ElementsAre(26, 26, 10, 2, 2, 32, 30, 128));
}

RoutingTrace trace_of(std::vector<std::int32_t> tokens) {
  RoutingTrace trace;
  trace.tokens = std::move(tokens);
  trace.sources = {"text"};
  trace.source_of_token.resize(trace.tokens.size(), 0);
  return trace;
}

std::vector<std::string> texts_of(const std::string& bytes) {
  std::vector<std::int32_t> tokens;
  for (const char c : bytes) tokens.push_back(static_cast<unsigned char>(c));
  return page_texts(trace_of(tokens), static_cast<std::int64_t>(tokens.size()));
}

// Tokens of a made-up vocabulary, in which a character of three bytes may be spread over two of them.
RoutingTrace tokenized_trace(std::vector<std::int32_t> tokens) {
  RoutingTrace trace = trace_of(std::move(tokens));
  trace.tokens_are_bytes = false;
  trace.bytes_of_id = {{0, "<s>"},      {1, " the"}, {2, "\xe2\x82"},     {3, "\xac\n\n"},
                       {4, "\xff\x07"}, {5, ""},     {6, "\u65e5\u672c"}, {7, "e\u0301\u00a0"}};
  return trace;
}

TEST(PageTexts, CharactersOfSeveralBytesStandAtTheirFirst) {
  EXPECT_THAT(texts_of("a\u00fc\u20ac\U0001F600\n"),
              testing::ElementsAre("a", "\u00fc", "", "\u20ac", "", "", "\U0001F600", "", "", "", "\n"));
}

TEST(PageTexts, BytesThatAreNoUtf8AreEscaped) {
  // A lone continuation, a cut character, an overlong slash, a surrogate, beyond U+10FFFF, a control
  // character.
  EXPECT_THAT(texts_of("\x80"), testing::ElementsAre("\\x80"));
  EXPECT_THAT(texts_of("\xe2\x82"), testing::ElementsAre("\\xe2", "\\x82"));
  EXPECT_THAT(texts_of("\xc0\xaf"), testing::ElementsAre("\\xc0", "\\xaf"));
  EXPECT_THAT(texts_of("\xed\xa0\x80"), testing::ElementsAre("\\xed", "\\xa0", "\\x80"));
  EXPECT_THAT(texts_of("\xf4\x90\x80\x80"), testing::ElementsAre("\\xf4", "\\x90", "\\x80", "\\x80"));
  EXPECT_THAT(texts_of("\x07"), testing::ElementsAre("\\x07"));
}

TEST(PageTexts, TokensWithoutATokenizerShowIds) {
  RoutingTrace trace = trace_of({50256, 65});
  trace.tokens_are_bytes = false;
  EXPECT_FALSE(has_text(trace));
  EXPECT_THAT(page_texts(trace, 2), testing::ElementsAre("50256", "65"));
}

TEST(PageTexts, TokensOfATokenizerShowTheirText) {
  const RoutingTrace trace = tokenized_trace({0, 1, 2, 3, 4, 5, 2, kNoToken, 3, 99});
  EXPECT_TRUE(has_text(trace));
  // A character that spans two tokens is whole at its first, unless padding parts them.
  EXPECT_THAT(page_texts(trace, trace.size()),
              testing::ElementsAre("<s>", " the", "\u20ac", "\n\n", "\\xff\\x07", "5", "\\xe2\\x82", "pad",
                                   "\\xac\n\n", "99"));
  EXPECT_THAT(page_texts(trace, 3), testing::ElementsAre("<s>", " the", "\\xe2\\x82"));
}

TEST(PageTexts, NoCharacterSpansTwoSources) {
  RoutingTrace trace = tokenized_trace({2, 3});
  trace.source_of_token = {0, 1};
  EXPECT_THAT(page_texts(trace, 2), testing::ElementsAre("\\xe2\\x82", "\\xac\n\n"));
}

TEST(PageText, IsTheWholeText) {
  EXPECT_EQ(page_text("a\n\u20ac\xe2\x82\x1b[1m"), "a\n\u20ac\\xe2\\x82\\x1b[1m");
}

TEST(TokenLabel, ShowsWhatCanBeSeen) {
  const RoutingTrace trace = tokenized_trace({});
  EXPECT_EQ(token_label(trace, 0), "<s>");
  EXPECT_EQ(token_label(trace, 1), "\u2423the");
  EXPECT_EQ(token_label(trace, 2), "\\xe2\\x82");
  EXPECT_EQ(token_label(trace, 3), "\\xac\\n\\n");
  EXPECT_EQ(token_label(trace, 4), "\\xff\\x07");
  EXPECT_EQ(token_label(trace, 5), "5");
  EXPECT_EQ(token_label(trace, 6), "\u65e5\u672c");
  EXPECT_EQ(token_label(trace, 7), "e\u0301\\xc2\\xa0");
  EXPECT_EQ(token_label(trace, 99), "99");
  EXPECT_EQ(token_label(trace, kNoToken), "pad");
}

TEST(TerminalColumns, WideCharactersTakeTwoAndMarksNone) {
  EXPECT_EQ(terminal_columns(""), 0);
  EXPECT_EQ(terminal_columns("\u2423the"), 4);
  EXPECT_EQ(terminal_columns("\u65e5\u672c"), 4);
  EXPECT_EQ(terminal_columns("e\u0301"), 1);
}

TEST(TokenTable, WideTokensKeepTheColumns) {
  RoutingTrace trace = test::small_trace();
  trace.tokens_are_bytes = false;
  trace.tokens = {1, 6, 6, 99};
  trace.bytes_of_id = {{1, " greatest"}, {6, "\u65e5\u672c"}};
  EXPECT_THAT(token_table(trace, {}), HasSubstr("0  \u2423greatest  e3 .75"));
  EXPECT_THAT(token_table(trace, {}), HasSubstr("1  \u65e5\u672c       e3 .60"));
  EXPECT_THAT(token_table(trace, {}), HasSubstr("3  99         e3 1.0"));
}

}  // namespace
}  // namespace conclave
