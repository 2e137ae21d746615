#include "trainer/checkpoint/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "comm/base/error.h"
#include "tests/support/temporary_directory.h"

namespace conclave {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

class SafetensorsTest : public testing::Test {
 protected:
  std::filesystem::path file() const { return directory_.path() / "x.safetensors"; }

  // A file of the given header and as many bytes of data.
  std::filesystem::path write_raw(const std::string& header, std::size_t data_bytes) const {
    const std::uint64_t length = header.size();
    std::ofstream stream(file(), std::ios::binary);
    stream.write(reinterpret_cast<const char*>(&length), sizeof length);
    stream << header << std::string(data_bytes, 'x');
    return file();
  }

  void expect_refused(const std::string& header, std::size_t data_bytes, const std::string& why) const {
    const auto path = write_raw(header, data_bytes);
    EXPECT_THAT([&] { SafetensorsReader reader(path); }, ThrowsMessage<Error>(HasSubstr(why))) << header;
  }

 private:
  test::TemporaryDirectory directory_;
};

TEST_F(SafetensorsTest, RoundTripIsBitwise) {
  std::vector<std::uint8_t> bytes{1, 2, 3};
  std::vector<float> matrix{0.0F, -0.0F, 1e-42F, std::numeric_limits<float>::quiet_NaN(), 5, 6};
  std::vector<std::int64_t> scalar{-7};
  std::vector<bfloat16> half{bfloat16(1.5F), bfloat16(-2.0F)};
  const std::vector<NamedTensor> tensors{{"bytes", tensor_view(std::span(bytes), {3})},
                                         {"matrix", tensor_view(std::span(matrix), {2, 3})},
                                         {"scalar", tensor_view(std::span(scalar), {})},
                                         {"half", tensor_view(std::span(half), {2, 1})},
                                         {"empty", ConstTensorView(nullptr, {0, 4}, DType::kFloat64)}};
  const WrittenSafetensors written = write_safetensors(file(), tensors, {{"step", "5"}});
  EXPECT_EQ(written.bytes, static_cast<std::int64_t>(std::filesystem::file_size(file())));

  const SafetensorsReader reader(file());
  EXPECT_EQ(checksum(reader.header()), written.header_checksum);
  EXPECT_EQ(reader.header().size() % 8, 0U);
  EXPECT_EQ(reader.metadata().at("step"), "5");
  EXPECT_EQ(reader.metadata().at("format"), "pt");
  EXPECT_EQ(reader.entries().size(), tensors.size());
  EXPECT_EQ(reader.find("nothing"), nullptr);
  for (const NamedTensor& tensor : tensors) {
    const auto* entry = reader.find(tensor.name);
    ASSERT_NE(entry, nullptr) << tensor.name;
    EXPECT_EQ(entry->dtype, tensor.value.dtype());
    EXPECT_EQ(entry->shape, tensor.value.shape());
    const auto expected = bytes_of(tensor.value);
    EXPECT_TRUE(std::ranges::equal(entry->bytes, expected)) << tensor.name;
    // Each tensor is aligned to its elements.
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(entry->bytes.data()) % size_of(entry->dtype), 0U)
        << tensor.name;
  }
}

// The bytes on disk, against the format's definition and not against the reader.
TEST_F(SafetensorsTest, FileIsAsTheFormatSays) {
  std::vector<float> values{1, 2};
  write_safetensors(file(), std::vector<NamedTensor>{{"a", tensor_view(std::span(values), {2})}});
  std::ifstream stream(file(), std::ios::binary);
  const std::string contents{std::istreambuf_iterator<char>(stream), {}};
  const std::string json =
      R"({"__metadata__":{"format":"pt"},"a":{"data_offsets":[0,8],"dtype":"F32","shape":[2]}})";
  const std::size_t padded = (json.size() + 7) / 8 * 8;
  std::string expected(8, '\0');
  expected[0] = static_cast<char>(padded);
  expected += json + std::string(padded - json.size(), ' ') + std::string("\0\0\x80\x3f\0\0\0\x40", 8);
  EXPECT_EQ(contents, expected);
}

TEST_F(SafetensorsTest, WriterRefusesANameTwice) {
  const ConstTensorView none(nullptr, {0}, DType::kFloat32);
  const std::vector<NamedTensor> tensors{{"a", none}, {"a", none}};
  EXPECT_THAT([&] { write_safetensors(file(), tensors); }, ThrowsMessage<Error>(HasSubstr("\"a\"")));
}

TEST_F(SafetensorsTest, ReaderAcceptsWhatOtherWritersMake) {
  const SafetensorsReader reader(write_raw(
      R"(  {"b":{"dtype":"U8","shape":[1],"data_offsets":[4,5]},"a":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]}} )",
      5));
  EXPECT_EQ(reader.find("a")->shape, (Shape{1, 1}));
  EXPECT_EQ(reader.find("b")->bytes.size(), 1U);
}

TEST_F(SafetensorsTest, ReaderRefusesMalformedFiles) {
  const auto entry = [](const std::string& shape, const std::string& offsets,
                        const std::string& dtype = "F32") {
    return R"({"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
  };
  const auto file_of = [](const std::string& a, const std::string& b) {
    return "{\"a\":" + a + ",\"b\":" + b + "}";
  };

  expect_refused("{\"a\":" + entry("[1]", "[0,4]") + ",\"a\":" + entry("[1]", "[0,4]") + "}", 4,
                 "\"a\" twice");
  expect_refused(R"({"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4,
                 "\"dtype\" twice");
  expect_refused("{\"a\":" + entry("[2]", "[0,4]") + "}", 4, "found 4, expected 8");
  expect_refused("{\"a\":" + entry("[1]", "[0,8]") + "}", 4, "do not lie within the 4 bytes");
  expect_refused("{\"a\":" + entry("[1]", "[4,0]") + "}", 4, "do not lie within");
  expect_refused("{\"a\":" + entry("[1]", "[0]") + "}", 4, "do not lie within");
  expect_refused("{\"a\":" + entry("[-1]", "[0,4]") + "}", 4, "not a 64-bit count");
  expect_refused("{\"a\":" + entry("[1.0]", "[0,4]") + "}", 4, "not a 64-bit count");
  expect_refused("{\"a\":" + entry("[4611686018427387904,4]", "[0,4]") + "}", 4, "more than 2^63");
  expect_refused("{\"a\":" + entry("[1,1,1,1,1]", "[0,4]") + "}", 4, "5 dimensions");
  expect_refused("{\"a\":" + entry("[1]", "[0,4]", "F8_E4M3") + "}", 4, "F8_E4M3");
  expect_refused("{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "no dtype");
  expect_refused("{\"a\":3}", 0, "not a JSON object");
  expect_refused("[]", 0, "not a JSON object");
  expect_refused("{\"a\":", 0, "not JSON");
  expect_refused(R"({"__metadata__":{"format":1}})", 0, "not a string");
  expect_refused(file_of(entry("[1]", "[0,4]"), entry("[1]", "[2,6]")), 6, "overlap");
  expect_refused(file_of(entry("[1]", "[0,4]"), entry("[1]", "[0,4]")), 4, "overlaps");
  expect_refused(file_of(entry("[1]", "[0,4]"), entry("[1]", "[8,12]")), 12, "hole at byte 4");
  expect_refused("{\"a\":" + entry("[1]", "[0,4]") + "}", 5, "found 5, expected 4");
}

TEST_F(SafetensorsTest, ReaderRefusesBadLengths) {
  const auto write_length = [&](std::uint64_t length) {
    std::ofstream(file(), std::ios::binary).write(reinterpret_cast<const char*>(&length), sizeof length);
  };
  write_length(100'000'001);
  EXPECT_THAT([&] { SafetensorsReader reader(file()); },
              ThrowsMessage<Error>(HasSubstr("at most 100000000")));
  write_length(~std::uint64_t{0});
  EXPECT_THAT([&] { SafetensorsReader reader(file()); }, ThrowsMessage<Error>(HasSubstr("at most")));
  write_length(10);
  EXPECT_THAT([&] { SafetensorsReader reader(file()); }, ThrowsMessage<Error>(HasSubstr("truncated")));
  std::ofstream(file(), std::ios::binary) << "1234567";
  EXPECT_THAT([&] { SafetensorsReader reader(file()); }, ThrowsMessage<Error>(HasSubstr("too short")));
  std::filesystem::remove(file());
  EXPECT_THAT([&] { SafetensorsReader reader(file()); }, ThrowsMessage<Error>(HasSubstr("No such file")));
}

}  // namespace
}  // namespace conclave
