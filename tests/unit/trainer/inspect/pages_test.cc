// The pages: what they hold, and that no text in them becomes markup.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "comm/base/error.h"
#include "tests/support/small_trace.h"
#include "tests/support/temporary_directory.h"
#include "trainer/html/page.h"
#include "trainer/inspect/inspect_page.h"
#include "trainer/report/run_report.h"

namespace conclave {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

// What the page's own script reads.
json data_of(const std::string& page) {
  const std::string begin = "<script type=\"application/json\" id=\"data\">";
  const std::size_t first = page.find(begin) + begin.size();
  return json::parse(page.substr(first, page.find("</script>", first) - first));
}

int count_of(const std::string& text, const std::string& part) {
  int count = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

TEST(Html, EscapesMarkupAndBytesThatAreNoUtf8) {
  EXPECT_EQ(html::escape("<script>alert(\"x\" & 'y')</script>"),
            "&lt;script&gt;alert(&quot;x&quot; &amp; &#39;y&#39;)&lt;/script&gt;");
  EXPECT_EQ(html::escape("a\xff"
                         "b\xc3"),
            "a\ufffdb\ufffd");
  EXPECT_EQ(html::escape("ü"), "ü");
}

TEST(Html, DataDoNotEndTheirElement) {
  const std::string data = json{{"text", "</script><!-- <b>"}}.dump();
  const std::string embedded = html::embeddable_json(data);
  EXPECT_THAT(embedded, Not(HasSubstr("<")));
  EXPECT_EQ(json::parse(embedded), json::parse(data));
}

TEST(Html, APageTakesNothingFromElsewhere) {
  const std::string page = html::render(
      {.title = "</title><script>alert(1)</script>", .data = R"(["</script>"])", .script = "draw();"});
  EXPECT_THAT(page, HasSubstr("Content-Security-Policy\" content=\"default-src 'none'"));
  EXPECT_EQ(count_of(page, "<script"), 3);  // the data, the charts, the page's own
  EXPECT_EQ(count_of(page, "</script>"), 3);
  EXPECT_THAT(page, Not(HasSubstr("src=")));
  EXPECT_THAT(page, Not(HasSubstr("@import")));
  EXPECT_THAT(page, Not(HasSubstr("url(")));
  EXPECT_THAT(page, HasSubstr("prefers-color-scheme: dark"));
  EXPECT_EQ(data_of(page), json::parse(R"(["</script>"])"));
}

TEST(Html, WritesBelowNewDirectories) {
  const test::TemporaryDirectory directory;
  const auto path = directory.path() / "new" / "page.html";
  html::write(path, {.title = "t", .data = "{}", .script = ""});
  EXPECT_TRUE(std::filesystem::exists(path));
  std::ofstream(directory.path() / "file") << "x";
  EXPECT_THROW(
      html::write(directory.path() / "file" / "page.html", {.title = "t", .data = "{}", .script = ""}),
      Error);
}

TEST(InspectPage, HoldsTextChoicesAndSummaries) {
  RoutingTrace trace = test::small_trace();
  trace.tokens = {'<', '"', 0xFF, '&'};
  trace.sources = {"<b>one</b>", "two"};
  trace.source_of_token = {0, 0, 1, 1};
  const auto summaries = summarise(trace);
  const std::string page = html::render(inspect_page(
      {.title = "<i>title</i>", .facts = {{"n", "<u>"}}, .trace = trace, .summaries = summaries}));
  EXPECT_THAT(page, Not(HasSubstr("<i>")));
  EXPECT_THAT(page, Not(HasSubstr("<b>")));
  EXPECT_THAT(page, Not(HasSubstr("<u>")));
  const json data = data_of(page);
  EXPECT_EQ(data["tokens"], (std::vector<std::string>{"<", "\"", "\\xff", "&"}));
  EXPECT_EQ(data["sections"][1], (json{{"name", "two"}, {"first", 2}}));
  const json& layer = data["layers"][0];
  EXPECT_EQ(layer["shown"], 2);
  EXPECT_EQ(layer["chosen"], (std::vector<int>{3, 1, 3, 0, -1, -1, 3, -1}));
  EXPECT_EQ(layer["weights"], (std::vector<int>{750, 250, 600, 400, 0, 0, 1000, 0}));
  EXPECT_FALSE(layer.contains("more"));
  EXPECT_EQ(layer["by_source"], json::parse("[[1, 1, 0, 2], [0, 0, 0, 1]]"));
  EXPECT_TRUE(data["layers"][1]["router_entropy"].is_null());
  EXPECT_FALSE(data.contains("evolution"));
}

TEST(InspectPage, SumsUpTheRestOfManyExperts) {
  RoutingTrace trace;
  trace.tokens = {'a', 'b'};
  trace.sources = {"text"};
  trace.source_of_token = {0, 0};
  LayerRouting& dense = trace.layers.emplace_back();
  dense.experts = dense.places = 10;
  for (int i = 0; i < 20; ++i) {
    dense.chosen.push_back(i % 10);
    dense.weights.push_back(0.1F);
  }
  const std::vector<std::int64_t> even(10, 1);
  const LoadEvolution evolution = {.steps = {1, 2}, .loads = {{even, even}}};
  const auto summaries = summarise(trace);
  const html::Page page = inspect_page({.title = "",
                                        .facts = {},
                                        .trace = trace,
                                        .summaries = summaries,
                                        .shown_tokens = 1,
                                        .evolution = evolution});
  const json data = json::parse(page.data);
  EXPECT_EQ(data["tokens"].size(), 1U);
  EXPECT_EQ(data["layers"][0]["chosen"], (std::vector<int>{0, 1, 2, 3}));
  EXPECT_EQ(data["layers"][0]["more"], (std::vector<int>{6}));
  EXPECT_EQ(data["layers"][0]["more_weight"], (std::vector<int>{600}));
  EXPECT_EQ(data["layers"][0]["load"], std::vector<int>(10, 2));  // of all tokens
  EXPECT_EQ(data["evolution"]["steps"], (std::vector<int>{1, 2}));
}

class RunReport : public testing::Test {
 protected:
  void write(const std::string& lines) { std::ofstream(directory_.path() / "metrics.jsonl") << lines; }
  json data() const { return json::parse(run_report_data(directory_.path())); }

  test::TemporaryDirectory directory_;
};

TEST_F(RunReport, DrawsWhatIsThere) {
  write(R"({"type":"step","step":10,"tokens":640,"loss":5.5,"lr":0.001,"expert_load":[[3,1],[2,2]]}
not a record
{"type":"step","step":20,"loss":null,"lr":0.002,"imbalance_tax":0.25,"time":{"gemm":0.75},"expert_load":[[4,0],[1,3]]}
{"type":"evaluation","step":20,"eval_loss":4.5,"bits_per_byte":6.49,"eval_loss_by_source":{"<b>":4.25}}
{"type":"step","step":30,"loss":)");
  const json report = data();
  EXPECT_EQ(report["steps"]["step"], (std::vector<int>{10, 20}));
  EXPECT_EQ(report["steps"]["loss"], json::parse("[5.5, null]"));
  EXPECT_EQ(report["steps"]["lr"], (std::vector<double>{0.001, 0.002}));
  EXPECT_EQ(report["steps"]["grad_norm"], json::parse("[null, null]"));
  EXPECT_EQ(report["steps"]["imbalance_tax"], json::parse("[null, 0.25]"));
  EXPECT_EQ(report["steps"]["time"], json::parse(R"({"gemm": [null, 0.75]})"));
  EXPECT_EQ(report["load"]["layers"], json::parse("[[[3, 1], [4, 0]], [[2, 2], [1, 3]]]"));
  EXPECT_EQ(report["evaluations"]["loss"], (std::vector<double>{4.5}));
  EXPECT_EQ(report["evaluations"]["sources"], json::parse(R"([{"name": "<b>", "loss": [4.25]}])"));

  write_run_report(directory_.path(), run_report_path(directory_.path()));
  std::ifstream file(run_report_path(directory_.path()));
  const std::string page{std::istreambuf_iterator<char>(file), {}};
  EXPECT_THAT(page, Not(HasSubstr("<b>")));
  EXPECT_EQ(data_of(page), report);
}

TEST_F(RunReport, ADenseModelHasNoLoads) {
  write(R"({"type":"step","step":1,"loss":2,"expert_load":[]})"
        "\n");
  EXPECT_TRUE(data()["load"]["layers"].empty());
}

TEST_F(RunReport, ALongRunIsThinnedOut) {
  std::string lines;
  for (int step = 1; step <= 2000; ++step)
    lines += json{{"type", "step"}, {"step", step}, {"loss", step}, {"expert_load", {{1, 3}}}}.dump() + "\n";
  write(lines);
  const json report = data();
  ASSERT_EQ(report["steps"]["step"].size(), 1000U);
  EXPECT_EQ(report["steps"]["step"][0], 2);
  EXPECT_EQ(report["steps"]["loss"][0], 1.5);
  EXPECT_EQ(report["steps"]["loss"][999], 1999.5);
  ASSERT_EQ(report["load"]["layers"][0].size(), 240U);
  std::int64_t total = 0;
  for (const json& column : report["load"]["layers"][0]) total += column[1].get<std::int64_t>();
  EXPECT_EQ(total, 3 * 2000);
  EXPECT_EQ(report["load"]["steps"][239], 2000);
}

TEST_F(RunReport, SaysWhatIsMissing) {
  EXPECT_THROW(data(), Error);
  write("nothing\n");
  EXPECT_THROW(data(), Error);
}

}  // namespace
}  // namespace conclave
