#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "comm/base/error.h"
#include "trainer/checkpoint/safetensors.h"

namespace conclave {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors stores little-endian numbers");

nlohmann::json shape_json(const Shape& shape) {
  auto extents = nlohmann::json::array();
  for (int dimension = 0; dimension < shape.rank(); ++dimension) extents.push_back(shape[dimension]);
  return extents;
}

// The length word and the JSON, padded so that the tensors start at a multiple of 8.
std::string header_of(const std::vector<SafetensorsWriter::Entry>& entries,
                      const std::map<std::string, std::string>& metadata) {
  nlohmann::json header = nlohmann::json::object();
  header["__metadata__"] = metadata;
  header["__metadata__"]["format"] = "pt";
  std::int64_t offset = 0;
  for (const SafetensorsWriter::Entry& entry : entries) {
    header[entry.name] = {{"dtype", safetensors_dtype(entry.dtype)},
                          {"shape", shape_json(entry.shape)},
                          {"data_offsets", {offset, offset + entry.bytes()}}};
    offset += entry.bytes();
  }
  std::string json = header.dump();
  json.resize((json.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = json.size();
  std::string result(reinterpret_cast<const char*>(&length), sizeof length);
  return result + json;
}

// Checked, and in the order of the file.
std::vector<SafetensorsWriter::Entry> ordered(std::vector<SafetensorsWriter::Entry> entries,
                                              const std::filesystem::path& path) {
  std::set<std::string_view> names{"__metadata__"};
  for (const SafetensorsWriter::Entry& entry : entries) {
    CONCLAVE_CHECK(names.insert(entry.name).second, "{}: two tensors are named \"{}\"", path.string(),
                   entry.name);
  }
  std::ranges::stable_sort(entries, std::greater{},
                           [](const SafetensorsWriter::Entry& entry) { return size_of(entry.dtype); });
  return entries;
}

}  // namespace

std::uint64_t checksum(std::span<const std::byte> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

Checksum::Checksum() : state_(XXH3_createState()) { XXH3_64bits_reset(state_); }
Checksum::~Checksum() { XXH3_freeState(state_); }
void Checksum::update(std::span<const std::byte> bytes) {
  XXH3_64bits_update(state_, bytes.data(), bytes.size());
}
std::uint64_t Checksum::value() const { return XXH3_64bits_digest(state_); }

std::span<const std::byte> bytes_of(const ConstTensorView& tensor) {
  CONCLAVE_CHECK(tensor.device().kind == DeviceKind::kCpu,
                 "a tensor of shape {} is in device memory; copy it to the host before it is saved or loaded",
                 tensor.shape().text());
  return {static_cast<const std::byte*>(tensor.raw()),
          static_cast<std::size_t>(tensor.elements()) * size_of(tensor.dtype())};
}

SafetensorsWriter::SafetensorsWriter(std::filesystem::path path, std::vector<Entry> entries,
                                     const std::map<std::string, std::string>& metadata)
    : path_(std::move(path)), entries_(ordered(std::move(entries), path_)), file_(path_) {
  const std::string header = header_of(entries_, metadata);
  header_checksum_ = checksum(std::as_bytes(std::span(header)));
  expected_bytes_ = static_cast<std::int64_t>(header.size());
  for (const Entry& entry : entries_) expected_bytes_ += entry.bytes();
  file_.write(header);
}

WrittenSafetensors SafetensorsWriter::close_durably() {
  CONCLAVE_CHECK_EQ(file_.bytes_written(), expected_bytes_, path_.string() + ": bytes written");
  file_.close_durably();
  return {expected_bytes_, header_checksum_};
}

WrittenSafetensors write_safetensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors,
                                     const std::map<std::string, std::string>& metadata) {
  std::vector<SafetensorsWriter::Entry> entries;
  std::map<std::string_view, ConstTensorView> values;
  for (const NamedTensor& tensor : tensors) {
    entries.push_back({tensor.name, tensor.value.dtype(), tensor.value.shape()});
    values[tensor.name] = tensor.value;
  }
  SafetensorsWriter writer(path, std::move(entries), metadata);
  for (const SafetensorsWriter::Entry& entry : writer.entries())
    writer.write(bytes_of(values.at(entry.name)));
  return writer.close_durably();
}

}  // namespace conclave
