#include "trainer/metrics/tensorboard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "tests/support/temporary_directory.h"
#include "trainer/metrics/crc32c.h"

namespace conclave {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// CRC-32C by polynomial division, bit by bit: no table.
std::uint32_t reference_crc32c(const std::string& bytes) {
  std::uint32_t crc = 0xFFFFFFFFU;
  for (const char c : bytes) {
    for (int bit = 0; bit < 8; ++bit) {
      const bool differs = ((crc ^ (static_cast<unsigned char>(c) >> bit)) & 1U) != 0;
      crc = (crc >> 1) ^ (differs ? 0x82F63B78U : 0U);
    }
  }
  return ~crc;
}

TEST(Crc32c, CheckValues) {
  EXPECT_EQ(crc32c("123456789"), 0xE3069283U);
  EXPECT_EQ(crc32c(""), 0U);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAU);    // RFC 3720, B.4
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62A8AB43U);  // RFC 3720, B.4
  std::string all;
  for (int i = 0; i < 256; ++i) all += static_cast<char>(i);
  EXPECT_EQ(crc32c(all), reference_crc32c(all));
  EXPECT_EQ(masked_crc(0), 0xa282ead8U);
  EXPECT_EQ(masked_crc(0x00008000U), 0xa282ead9U);
}

// A reader of the protobuf wire format that knows nothing of events.proto: fields by number, nested messages
// as bytes.
struct Field {
  int wire_type;
  std::uint64_t number;  // varint, or the bits of a fixed value
  std::string bytes;
};
using Fields = std::multimap<int, Field>;

std::uint64_t read_varint(const std::string& bytes, std::size_t& at) {
  std::uint64_t value = 0;
  for (int shift = 0;; shift += 7) {
    const auto byte = static_cast<unsigned char>(bytes.at(at++));
    value |= static_cast<std::uint64_t>(byte & 0x7FU) << shift;
    if ((byte & 0x80U) == 0) return value;
  }
}

Fields parse_fields(const std::string& bytes) {
  Fields fields;
  for (std::size_t at = 0; at < bytes.size();) {
    const std::uint64_t key = read_varint(bytes, at);
    Field field{static_cast<int>(key & 7U), 0, ""};
    if (field.wire_type == 0) {
      field.number = read_varint(bytes, at);
    } else {
      const std::size_t size = field.wire_type == 1   ? 8
                               : field.wire_type == 5 ? 4
                                                      : static_cast<std::size_t>(read_varint(bytes, at));
      field.bytes = bytes.substr(at, size);
      EXPECT_EQ(field.bytes.size(), size);
      at += size;
      if (field.wire_type != 2) std::memcpy(&field.number, field.bytes.data(), size);
    }
    fields.emplace(static_cast<int>(key >> 3), field);
  }
  return fields;
}

double as_double(const Field& field) {
  double value = 0;
  std::memcpy(&value, &field.number, sizeof value);
  return value;
}
float as_float(const Field& field) {
  float value = 0;
  std::memcpy(&value, &field.number, sizeof value);
  return value;
}
std::vector<double> as_doubles(const Field& field) {
  std::vector<double> values(field.bytes.size() / sizeof(double));
  std::memcpy(values.data(), field.bytes.data(), values.size() * sizeof(double));
  return values;
}

template <class T>
T read_number(const std::string& bytes, std::size_t at) {
  T value{};
  std::memcpy(&value, bytes.substr(at, sizeof value).data(), sizeof value);
  return value;
}

// The events of a file, its checksums verified.
std::vector<Fields> read_events(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  const std::string contents{std::istreambuf_iterator<char>(stream), {}};
  const auto mask = [](std::uint32_t crc) { return ((crc >> 15) | (crc << 17)) + 0xa282ead8U; };
  std::vector<Fields> events;
  for (std::size_t at = 0; at < contents.size();) {
    const auto length = read_number<std::uint64_t>(contents, at);
    EXPECT_EQ(read_number<std::uint32_t>(contents, at + 8), mask(reference_crc32c(contents.substr(at, 8))));
    const std::string payload = contents.substr(at + 12, length);
    EXPECT_EQ(payload.size(), length);
    EXPECT_EQ(read_number<std::uint32_t>(contents, at + 12 + length), mask(reference_crc32c(payload)));
    events.push_back(parse_fields(payload));
    at += 16 + length;
  }
  return events;
}

// tag -> the value's fields.
std::map<std::string, Fields> values_of(const Fields& event) {
  std::map<std::string, Fields> values;
  const Fields summary = parse_fields(event.find(5)->second.bytes);
  for (const auto& [number, value] : summary) {
    EXPECT_EQ(number, 1);
    const Fields fields = parse_fields(value.bytes);
    values[fields.find(1)->second.bytes] = fields;
  }
  return values;
}

TEST(TensorBoard, EventsReadBack) {
  const test::TemporaryDirectory directory;
  std::filesystem::path path;
  {
    TensorBoardWriter writer(directory.path(), 0);
    path = writer.path();
    StepRecord step;
    step.step = 300;
    step.loss = 2.5;
    step.dropped_fraction = 0;  // a zero must be there, not absent
    step.dropped_by_layer = {0.25};
    step.dropped_by_choice = {0.125, 0.375};
    step.load_imbalance_by_layer = {1.75};
    step.expert_load = {{5, 0, 7}};
    writer.write(step);
    EvaluationRecord evaluation;
    evaluation.step = 300;
    evaluation.eval_loss = 1.5;
    evaluation.bits_per_byte = 2.25;
    evaluation.by_source = {{"kjv", 1.25, 1.75}};
    writer.write(evaluation);
  }
  EXPECT_THAT(path.filename().string(), HasSubstr("tfevents"));
  const std::vector<Fields> events = read_events(path);
  ASSERT_EQ(events.size(), 3U);

  EXPECT_EQ(events[0].find(3)->second.bytes, "brain.Event:2");
  EXPECT_GT(as_double(events[0].find(1)->second), 1.7e9);

  EXPECT_EQ(events[1].find(2)->second.number, 300U);
  auto values = values_of(events[1]);
  EXPECT_EQ(as_float(values.at("train/loss").find(2)->second), 2.5F);
  ASSERT_EQ(values.at("moe/dropped_fraction").count(2), 1U);
  EXPECT_EQ(as_float(values.at("moe/dropped_fraction/layer_0").find(2)->second), 0.25F);
  EXPECT_EQ(as_float(values.at("moe/dropped_fraction/choice_1").find(2)->second), 0.375F);
  EXPECT_EQ(as_float(values.at("moe/load_imbalance/layer_0").find(2)->second), 1.75F);
  const Fields histogram = parse_fields(values.at("moe/expert_load/layer_0").find(5)->second.bytes);
  EXPECT_EQ(as_double(histogram.find(1)->second), -0.5);
  EXPECT_EQ(as_double(histogram.find(2)->second), 2.5);
  EXPECT_EQ(as_double(histogram.find(3)->second), 12);
  EXPECT_EQ(as_double(histogram.find(4)->second), 14);
  EXPECT_EQ(as_double(histogram.find(5)->second), 28);
  EXPECT_THAT(as_doubles(histogram.find(6)->second), ElementsAre(-0.5, 0.5, 1.5, 2.5));
  EXPECT_THAT(as_doubles(histogram.find(7)->second), ElementsAre(0, 5, 0, 7));

  values = values_of(events[2]);
  EXPECT_EQ(values.size(), 4U);
  EXPECT_EQ(as_float(values.at("eval/bits_per_byte").find(2)->second), 2.25F);
  EXPECT_EQ(as_float(values.at("eval/loss/kjv").find(2)->second), 1.25F);
}

TEST(TensorBoard, ResumingTellsToForgetLaterSteps) {
  const test::TemporaryDirectory directory;
  const TensorBoardWriter writer(directory.path(), 20);
  const std::vector<Fields> events = read_events(writer.path());
  ASSERT_EQ(events.size(), 2U);
  EXPECT_EQ(events[1].find(2)->second.number, 21U);
  const Fields session_log = parse_fields(events[1].find(7)->second.bytes);
  EXPECT_EQ(session_log.find(1)->second.number, 1U);  // START
}

TEST(TensorBoard, DenseModelsHaveNoExpertTags) {
  const test::TemporaryDirectory directory;
  TensorBoardWriter writer(directory.path(), 0);
  writer.write(StepRecord{});
  for (const auto& [tag, value] : values_of(read_events(writer.path()).back()))
    EXPECT_NE(tag.substr(0, 4), "moe/");
}

}  // namespace
}  // namespace conclave
