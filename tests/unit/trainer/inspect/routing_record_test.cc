// Records of routing decisions on disk: what is written is read again, what is damaged is named.
#include "trainer/inspect/routing_record.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "comm/base/error.h"
#include "tests/support/small_trace.h"
#include "tests/support/temporary_directory.h"
#include "trainer/checkpoint/safetensors.h"

namespace conclave {
namespace {

using testing::HasSubstr;

class RoutingRecordTest : public testing::Test {
 protected:
  RoutingRecordTest() {
    record_.step = 100;
    record_.sequence_length = 2;
    record_.trace = test::small_trace();
    record_.trace.sources = {"a \"name\"", "ü"};
    record_.trace.source_of_token = {1, 1, 0, 0};
  }
  std::string refusal(const std::filesystem::path& path) const {
    try {
      read_routing_record(path);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  test::TemporaryDirectory directory_;
  std::filesystem::path path_ = routing_record_path(directory_.path(), 100);
  RoutingRecord record_;
};

TEST_F(RoutingRecordTest, IsReadAsItWasWritten) {
  write_routing_record(path_, record_);
  EXPECT_EQ(path_.filename(), "step_000100.safetensors");
  const RoutingRecord read = read_routing_record(path_);
  EXPECT_EQ(read.step, 100);
  EXPECT_EQ(read.sequence_length, 2);
  EXPECT_TRUE(read.trace.tokens_are_bytes);
  EXPECT_EQ(read.trace.tokenizer_file, "");
  EXPECT_EQ(read.trace.tokens, record_.trace.tokens);
  EXPECT_EQ(read.trace.sources, record_.trace.sources);
  EXPECT_EQ(read.trace.source_of_token, record_.trace.source_of_token);
  ASSERT_EQ(read.trace.layers.size(), 2U);
  for (std::size_t i = 0; i < 2; ++i) {
    const LayerRouting& layer = read.trace.layers[i];
    const LayerRouting& written = record_.trace.layers[i];
    EXPECT_EQ(layer.block, written.block);
    EXPECT_EQ(layer.experts, written.experts);
    EXPECT_EQ(layer.places, written.places);
    EXPECT_EQ(layer.chosen, written.chosen);
    EXPECT_EQ(layer.weights, written.weights);
    EXPECT_EQ(layer.entropy, written.entropy);
  }
}

TEST_F(RoutingRecordTest, KnowsTheTokenizer) {
  record_.trace.tokens_are_bytes = false;
  record_.trace.tokenizer_file = "some/tokenizer.json";
  write_routing_record(path_, record_);
  const RoutingRecord read = read_routing_record(path_);
  EXPECT_FALSE(read.trace.tokens_are_bytes);
  EXPECT_EQ(read.trace.tokenizer_file, "some/tokenizer.json");
}

TEST_F(RoutingRecordTest, AnySafetensorsReaderFindsTheDocumentedTensors) {
  write_routing_record(path_, record_);
  const SafetensorsReader file(path_);
  EXPECT_EQ(file.find("tokens")->dtype, DType::kInt32);
  EXPECT_EQ(file.find("sources")->shape.text(), Shape({2}).text());
  EXPECT_EQ(file.find("layers.2.experts")->shape.text(), Shape({4, 3}).text());
  EXPECT_EQ(file.find("layers.2.weights")->dtype, DType::kFloat32);
  EXPECT_EQ(file.find("layers.0.entropy")->shape.text(), Shape({4}).text());
  EXPECT_EQ(file.find("layers.2.entropy"), nullptr);
  EXPECT_EQ(file.metadata().at("step"), "100");
  EXPECT_EQ(file.metadata().at("tokenizer"), "bytes");
  EXPECT_EQ(file.metadata().at("layers.0.experts"), "4");
}

TEST_F(RoutingRecordTest, RecordsOfADirectoryComeByStep) {
  for (const std::int64_t step : {1000000, 20, 3})
    write_routing_record(routing_record_path(directory_.path(), step), record_);
  std::ofstream(directory_.path() / "step_000004.safetensors.tmp") << "unfinished";
  std::ofstream(directory_.path() / "other.safetensors") << "x";
  const auto found = find_routing_records(directory_.path());
  ASSERT_EQ(found.size(), 3U);
  EXPECT_EQ(found[0].filename(), "step_000003.safetensors");
  EXPECT_EQ(found[2].filename(), "step_1000000.safetensors");
  EXPECT_EQ(find_routing_records(found[1]), std::vector{found[1]});
  EXPECT_THROW(find_routing_records(directory_.path() / "none"), Error);
  std::filesystem::create_directory(directory_.path() / "empty");
  EXPECT_THROW(find_routing_records(directory_.path() / "empty"), Error);
}

TEST_F(RoutingRecordTest, NamesWhatIsWrong) {
  EXPECT_THAT(refusal(directory_.path() / "none.safetensors"), HasSubstr("none.safetensors"));

  const std::vector<std::int32_t> tokens = {1, 2};
  const std::vector<NamedTensor> tensors = {{"tokens", tensor_view(std::span(tokens), {2})}};
  write_safetensors(path_, tensors);
  EXPECT_THAT(refusal(path_), HasSubstr("is no record of routing decisions"));
  write_safetensors(path_, tensors, {{"conclave_routing", "9"}});
  EXPECT_THAT(refusal(path_), HasSubstr("has format 9"));
  write_safetensors(path_, tensors, {{"conclave_routing", "1"}});
  EXPECT_THAT(refusal(path_), HasSubstr("no \"step\""));

  RoutingRecord outside = record_;
  outside.trace.layers[0].chosen[0] = 4;
  write_routing_record(path_, outside);
  EXPECT_THAT(refusal(path_), HasSubstr("\"layers.0.experts\" holds 4, with 4 experts"));
}

TEST_F(RoutingRecordTest, AFailedWriteThrows) {
  EXPECT_THROW(write_routing_record(directory_.path() / "missing" / "step_000001.safetensors", record_),
               Error);
}

}  // namespace
}  // namespace conclave
