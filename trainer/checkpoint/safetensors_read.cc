#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "comm/base/error.h"
#include "trainer/checkpoint/safetensors.h"

namespace conclave {
namespace {

constexpr std::size_t kLengthBytes = sizeof(std::uint64_t);
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;

constexpr std::array<std::pair<DType, std::string_view>, 7> kDTypeNames{{{DType::kFloat32, "F32"},
                                                                         {DType::kBFloat16, "BF16"},
                                                                         {DType::kFloat16, "F16"},
                                                                         {DType::kFloat64, "F64"},
                                                                         {DType::kInt32, "I32"},
                                                                         {DType::kInt64, "I64"},
                                                                         {DType::kUInt8, "U8"}}};

// Parses JSON, refusing a key that stands twice in one object (the parser alone would keep the last).
nlohmann::json parse_json(std::string_view text, const std::string& path) {
  std::vector<std::set<std::string>> keys_of_open_objects;
  const auto refuse_duplicates = [&](int, nlohmann::json::parse_event_t event, nlohmann::json& parsed) {
    if (event == nlohmann::json::parse_event_t::object_start) keys_of_open_objects.emplace_back();
    if (event == nlohmann::json::parse_event_t::object_end) keys_of_open_objects.pop_back();
    if (event == nlohmann::json::parse_event_t::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      CONCLAVE_CHECK(keys_of_open_objects.back().insert(key).second, "{}: the header names \"{}\" twice",
                     path, key);
    }
    return true;
  };
  try {
    return nlohmann::json::parse(text, refuse_duplicates);
  } catch (const nlohmann::json::exception& error) {
    throw Error(fmt::format("{}: the safetensors header is not JSON: {}", path, error.what()));
  }
}

// A list of non-negative integers, or Error.
std::vector<std::int64_t> integers(const nlohmann::json& entry, const char* key, const std::string& what) {
  const auto found = entry.find(key);
  CONCLAVE_CHECK(found != entry.end() && found->is_array(), "{}: \"{}\" is not a list", what, key);
  std::vector<std::int64_t> values;
  for (const nlohmann::json& value : *found) {
    CONCLAVE_CHECK(value.is_number_unsigned() && value.get<std::uint64_t>() <= INT64_MAX,
                   "{}: \"{}\" holds {}, which is not a 64-bit count", what, key, value.dump());
    values.push_back(value.get<std::int64_t>());
  }
  return values;
}

// Bytes of a tensor, or Error where the product overflows; also that of its other extents where one is 0,
// since any of them may be multiplied later.
std::int64_t checked_bytes(const std::vector<std::int64_t>& extents, DType dtype, const std::string& what) {
  auto bytes = static_cast<std::int64_t>(size_of(dtype));
  for (const std::int64_t extent : extents) {
    CONCLAVE_CHECK(!__builtin_mul_overflow(bytes, std::max<std::int64_t>(extent, 1), &bytes),
                   "{}: its shape has more than 2^63 bytes", what);
  }
  return std::ranges::find(extents, 0) == extents.end() ? bytes : 0;
}

Shape shape_of(const std::vector<std::int64_t>& extents, const std::string& what) {
  switch (extents.size()) {
    case 0:
      return {};
    case 1:
      return {extents[0]};
    case 2:
      return {extents[0], extents[1]};
    case 3:
      return {extents[0], extents[1], extents[2]};
    case 4:
      return {extents[0], extents[1], extents[2], extents[3]};
    default:
      throw Error(
          fmt::format("{}: {} dimensions, at most {} are supported", what, extents.size(), Shape::kMaxRank));
  }
}

}  // namespace

std::string_view safetensors_dtype(DType dtype) {
  for (const auto& [known, name] : kDTypeNames) {
    if (known == dtype) return name;
  }
  throw Error(fmt::format("no safetensors name for dtype {}", name_of(dtype)));
}

DType dtype_from_safetensors(std::string_view name, const std::string& what) {
  std::string known_names;
  for (const auto& [dtype, known] : kDTypeNames) {
    if (known == name) return dtype;
    known_names += fmt::format("{}{}", known_names.empty() ? "" : ", ", known);
  }
  throw Error(fmt::format("{}: dtype \"{}\" is not supported; supported are {}", what, name, known_names));
}

SafetensorsContents parse_safetensors(std::span<const std::byte> file, const std::string& path) {
  SafetensorsContents contents;
  CONCLAVE_CHECK(file.size() >= kLengthBytes, "{} has {} bytes: too short for a safetensors file", path,
                 file.size());
  std::uint64_t json_bytes = 0;
  std::memcpy(&json_bytes, file.data(), kLengthBytes);
  CONCLAVE_CHECK(json_bytes <= kMaxHeaderBytes, "{}: header of {} bytes, at most {} are allowed", path,
                 json_bytes, kMaxHeaderBytes);
  CONCLAVE_CHECK(json_bytes <= file.size() - kLengthBytes,
                 "{} is truncated: {} bytes, the header alone has {}", path, file.size(),
                 json_bytes + kLengthBytes);
  contents.header_bytes = kLengthBytes + json_bytes;
  const auto json = parse_json({reinterpret_cast<const char*>(file.data()) + kLengthBytes, json_bytes}, path);
  CONCLAVE_CHECK(json.is_object(), "{}: the safetensors header is not a JSON object", path);

  const std::span<const std::byte> data = file.subspan(contents.header_bytes);
  std::set<std::pair<std::int64_t, std::int64_t>> covered;  // every tensor's non-empty [begin, end)
  for (const auto& [name, entry] : json.items()) {
    const std::string what = fmt::format("{}: \"{}\"", path, name);
    CONCLAVE_CHECK(entry.is_object(), "{} is not a JSON object", what);
    if (name == "__metadata__") {
      for (const auto& [key, value] : entry.items()) {
        CONCLAVE_CHECK(value.is_string(), "{}: \"{}\" is not a string", what, key);
        contents.metadata[key] = value.get<std::string>();
      }
      continue;
    }
    const auto dtype_name = entry.find("dtype");
    CONCLAVE_CHECK(dtype_name != entry.end() && dtype_name->is_string(), "{} has no dtype", what);
    const DType dtype = dtype_from_safetensors(dtype_name->get_ref<const std::string&>(), what);
    const std::vector<std::int64_t> extents = integers(entry, "shape", what);
    const std::vector<std::int64_t> offsets = integers(entry, "data_offsets", what);
    CONCLAVE_CHECK(offsets.size() == 2 && offsets[0] <= offsets[1] &&
                       static_cast<std::uint64_t>(offsets[1]) <= data.size(),
                   "{}: data_offsets {} do not lie within the {} bytes of data", what,
                   entry["data_offsets"].dump(), data.size());
    const std::int64_t bytes = offsets[1] - offsets[0];
    CONCLAVE_CHECK_EQ(bytes, checked_bytes(extents, dtype, what),
                      what + ": bytes between its offsets and of its shape");
    if (bytes > 0) {
      CONCLAVE_CHECK(covered.emplace(offsets[0], offsets[1]).second, "{} overlaps another tensor", what);
    }
    contents.entries[name] = {
        dtype, shape_of(extents, what),
        data.subspan(static_cast<std::size_t>(offsets[0]), static_cast<std::size_t>(bytes))};
  }

  std::int64_t end = 0;
  for (const auto& [tensor_begin, tensor_end] : covered) {
    CONCLAVE_CHECK(tensor_begin == end, "{}: tensors {} at byte {} of the data", path,
                   tensor_begin < end ? "overlap" : "leave a hole", std::min(tensor_begin, end));
    end = tensor_end;
  }
  CONCLAVE_CHECK_EQ(static_cast<std::int64_t>(data.size()), end,
                    path + ": bytes of data in the file and in its header");
  return contents;
}

SafetensorsReader::SafetensorsReader(std::filesystem::path path)
    : path_(std::move(path)),
      file_(path_.string()),
      contents_(parse_safetensors(file_.bytes(), path_.string())) {}

const SafetensorsReader::Entry* SafetensorsReader::find(std::string_view name) const {
  const auto found = contents_.entries.find(name);
  return found == contents_.entries.end() ? nullptr : &found->second;
}

}  // namespace conclave
