#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>
#include <set>

#include "comm/base/error.h"
#include "trainer/checkpoint/safetensors.h"
#include "trainer/durable_file.h"

namespace conclave {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors stores little-endian numbers");

nlohmann::json shape_json(const Shape& shape) {
  auto extents = nlohmann::json::array();
  for (int dimension = 0; dimension < shape.rank(); ++dimension) extents.push_back(shape[dimension]);
  return extents;
}

// The length word and the JSON, padded so that the tensors start at a multiple of 8.
std::string header_of(std::span<const NamedTensor* const> tensors,
                      const std::map<std::string, std::string>& metadata) {
  nlohmann::json header = nlohmann::json::object();
  header["__metadata__"] = metadata;
  header["__metadata__"]["format"] = "pt";
  std::int64_t offset = 0;
  for (const NamedTensor* tensor : tensors) {
    const auto bytes = static_cast<std::int64_t>(bytes_of(tensor->value).size());
    header[tensor->name] = {{"dtype", safetensors_dtype(tensor->value.dtype())},
                            {"shape", shape_json(tensor->value.shape())},
                            {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  }
  std::string json = header.dump();
  json.resize((json.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = json.size();
  std::string result(reinterpret_cast<const char*>(&length), sizeof length);
  return result + json;
}

}  // namespace

std::uint64_t checksum(std::span<const std::byte> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

std::span<const std::byte> bytes_of(const ConstTensorView& tensor) {
  CONCLAVE_CHECK(tensor.device().kind == DeviceKind::kCpu,
                 "a tensor of shape {} is in device memory; copy it to the host before it is saved or loaded",
                 tensor.shape().text());
  return {static_cast<const std::byte*>(tensor.raw()),
          static_cast<std::size_t>(tensor.elements()) * size_of(tensor.dtype())};
}

WrittenSafetensors write_safetensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors,
                                     const std::map<std::string, std::string>& metadata) {
  std::set<std::string_view> names{"__metadata__"};
  std::vector<const NamedTensor*> ordered;
  for (const NamedTensor& tensor : tensors) {
    CONCLAVE_CHECK(names.insert(tensor.name).second, "{}: two tensors are named \"{}\"", path.string(),
                   tensor.name);
    ordered.push_back(&tensor);
  }
  std::ranges::stable_sort(ordered, std::greater{},
                           [](const NamedTensor* tensor) { return size_of(tensor->value.dtype()); });

  const std::string header = header_of(ordered, metadata);
  DurableFile file(path);
  file.write(header);
  for (const NamedTensor* tensor : ordered) file.write(bytes_of(tensor->value));
  file.close_durably();
  return {file.bytes_written(), checksum(std::as_bytes(std::span(header)))};
}

}  // namespace conclave
