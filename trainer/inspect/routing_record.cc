#include "trainer/inspect/routing_record.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "comm/base/error.h"
#include "trainer/checkpoint/safetensors.h"

namespace conclave {
namespace {

constexpr const char* kFormatVersion = "1";

std::string layer_name(std::int64_t block, const char* what) {
  return fmt::format("layers.{}.{}", block, what);
}

std::int64_t whole_number(const std::string& text, const std::string& what) {
  std::int64_t number = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
  CONCLAVE_CHECK(failure == std::errc() && end == text.data() + text.size(), "{} is \"{}\", no whole number",
                 what, text);
  return number;
}

// A file whose tensors and metadata are asked for by name; every complaint names both.
class RecordReader {
 public:
  explicit RecordReader(const std::filesystem::path& path) : file_(path) {
    const auto version = file_.metadata().find("conclave_routing");
    CONCLAVE_CHECK(version != file_.metadata().end(),
                   "{} is no record of routing decisions (log.routing writes them)", path.string());
    CONCLAVE_CHECK(version->second == kFormatVersion, "{} has format {}; this program reads {}",
                   path.string(), version->second, kFormatVersion);
  }

  const std::string& metadata(const std::string& key) const {
    const auto found = file_.metadata().find(key);
    CONCLAVE_CHECK(found != file_.metadata().end(), "{} has no \"{}\" in its metadata", name(), key);
    return found->second;
  }
  std::string metadata_or_empty(const std::string& key) const {
    const auto found = file_.metadata().find(key);
    return found == file_.metadata().end() ? "" : found->second;
  }
  std::int64_t number(const std::string& key) const {
    return whole_number(metadata(key), fmt::format("{}: \"{}\"", name(), key));
  }
  Shape shape(const std::string& tensor) const { return entry(tensor).shape; }
  bool has(const std::string& tensor) const { return file_.find(tensor) != nullptr; }
  template <class T>
  std::vector<T> values(const std::string& tensor) const {
    const SafetensorsReader::Entry& found = entry(tensor);
    CONCLAVE_CHECK(found.dtype == dtype_of<T>, "{}: \"{}\" is {}, expected {}", name(), tensor,
                   name_of(found.dtype), name_of(dtype_of<T>));
    std::vector<T> values(found.bytes.size() / sizeof(T));
    if (!values.empty()) std::memcpy(values.data(), found.bytes.data(), found.bytes.size());
    return values;
  }
  // The blocks whose experts are recorded, in order.
  std::vector<std::int64_t> blocks() const {
    std::vector<std::int64_t> blocks;
    for (const auto& [tensor, found] : file_.entries()) {
      if (!tensor.starts_with("layers.") || !tensor.ends_with(".experts")) continue;
      const std::string block = tensor.substr(7, tensor.size() - 7 - 8);
      blocks.push_back(whole_number(block, fmt::format("{}: the block of \"{}\"", name(), tensor)));
    }
    std::ranges::sort(blocks);
    return blocks;
  }
  std::string name() const { return file_.path().string(); }

 private:
  const SafetensorsReader::Entry& entry(const std::string& tensor) const {
    const SafetensorsReader::Entry* found = file_.find(tensor);
    CONCLAVE_CHECK(found != nullptr, "{} has no tensor \"{}\"", name(), tensor);
    return *found;
  }

  SafetensorsReader file_;
};

LayerRouting read_layer(const RecordReader& file, std::int64_t block, std::size_t tokens) {
  LayerRouting layer;
  layer.block = block;
  const std::string experts = layer_name(block, "experts");
  layer.experts = file.number(experts);
  const Shape shape = file.shape(experts);
  CONCLAVE_CHECK(layer.experts > 0 && shape.rank() == 2 && shape[0] == static_cast<std::int64_t>(tokens) &&
                     shape[1] > 0 && shape[1] <= layer.experts,
                 "{}: \"{}\" has shape {}, with {} tokens and {} experts", file.name(), experts, shape.text(),
                 tokens, layer.experts);
  layer.places = shape[1];
  layer.chosen = file.values<std::int32_t>(experts);
  layer.weights = file.values<float>(layer_name(block, "weights"));
  CONCLAVE_CHECK_EQ(layer.weights.size(), layer.chosen.size(),
                    file.name() + ": weights of layer " + std::to_string(block));
  for (const std::int32_t expert : layer.chosen) {
    CONCLAVE_CHECK(expert == kNoExpert || (expert >= 0 && expert < layer.experts),
                   "{}: \"{}\" holds {}, with {} experts", file.name(), experts, expert, layer.experts);
  }
  if (file.has(layer_name(block, "entropy"))) {
    layer.entropy = file.values<float>(layer_name(block, "entropy"));
    CONCLAVE_CHECK_EQ(layer.entropy.size(), tokens,
                      file.name() + ": entropies of layer " + std::to_string(block));
  }
  return layer;
}

}  // namespace

std::filesystem::path routing_record_path(const std::filesystem::path& directory, std::int64_t step) {
  return directory / fmt::format("step_{:06}.safetensors", step);
}

void write_routing_record(const std::filesystem::path& path, const RoutingRecord& record) {
  const RoutingTrace& trace = record.trace;
  const std::int64_t tokens = trace.size();
  std::map<std::string, std::string> metadata = {
      {"conclave_routing", kFormatVersion},
      {"step", std::to_string(record.step)},
      {"sequence_length", std::to_string(record.sequence_length)},
      {"tokenizer", trace.tokens_are_bytes ? "bytes" : "pretokenized"},
      {"source_names", nlohmann::json(trace.sources).dump()}};
  if (!trace.tokenizer_file.empty()) metadata["tokenizer_file"] = trace.tokenizer_file;
  std::vector<std::int32_t> source_of_sequence;  // [T / S]
  for (std::int64_t t = 0; t < tokens; t += record.sequence_length)
    source_of_sequence.push_back(trace.source_of_token[static_cast<std::size_t>(t)]);

  std::vector<NamedTensor> tensors = {
      {"tokens", tensor_view(std::span(trace.tokens), {tokens})},
      {"sources", tensor_view(std::span<const std::int32_t>(source_of_sequence),
                              {static_cast<std::int64_t>(source_of_sequence.size())})}};
  for (const LayerRouting& layer : trace.layers) {
    const Shape shape{tokens, layer.places};
    metadata[layer_name(layer.block, "experts")] = std::to_string(layer.experts);
    tensors.push_back({layer_name(layer.block, "experts"), tensor_view(std::span(layer.chosen), shape)});
    tensors.push_back({layer_name(layer.block, "weights"), tensor_view(std::span(layer.weights), shape)});
    if (!layer.entropy.empty())
      tensors.push_back(
          {layer_name(layer.block, "entropy"), tensor_view(std::span(layer.entropy), {tokens})});
  }

  const std::filesystem::path unfinished = path.string() + ".tmp";
  write_safetensors(unfinished, tensors, metadata);
  std::error_code failure;
  std::filesystem::rename(unfinished, path, failure);
  CONCLAVE_CHECK(!failure, "can't rename {} to {}: {}", unfinished.string(), path.string(),
                 failure.message());
}

RoutingRecord read_routing_record(const std::filesystem::path& path) {
  const RecordReader file(path);
  RoutingRecord record;
  record.step = file.number("step");
  record.sequence_length = file.number("sequence_length");
  RoutingTrace& trace = record.trace;
  trace.tokens_are_bytes = file.metadata("tokenizer") == "bytes";
  trace.tokenizer_file = file.metadata_or_empty("tokenizer_file");
  trace.tokens = file.values<std::int32_t>("tokens");
  const auto names =
      nlohmann::json::parse(file.metadata("source_names"), nullptr, /*allow_exceptions=*/false);
  CONCLAVE_CHECK(names.is_array(), "{}: \"source_names\" is no JSON list", file.name());
  for (const auto& source : names)
    trace.sources.push_back(source.is_string() ? source.get<std::string>() : "?");

  const auto source_of_sequence = file.values<std::int32_t>("sources");
  CONCLAVE_CHECK(
      record.sequence_length > 0 &&
          static_cast<std::int64_t>(source_of_sequence.size()) * record.sequence_length == trace.size(),
      "{}: {} tokens in {} sequences of {}", file.name(), trace.size(), source_of_sequence.size(),
      record.sequence_length);
  for (const std::int32_t source : source_of_sequence) {
    CONCLAVE_CHECK(source >= 0 && static_cast<std::size_t>(source) < trace.sources.size(),
                   "{}: a sequence of source {}, of which there are {}", file.name(), source,
                   trace.sources.size());
    trace.source_of_token.insert(trace.source_of_token.end(),
                                 static_cast<std::size_t>(record.sequence_length), source);
  }
  for (const std::int64_t block : file.blocks())
    trace.layers.push_back(read_layer(file, block, trace.tokens.size()));
  CONCLAVE_CHECK(!trace.layers.empty() && trace.size() > 0, "{} records no token of any MoE layer",
                 file.name());
  return record;
}

std::vector<std::filesystem::path> find_routing_records(const std::filesystem::path& path) {
  std::error_code ignored;  // what can't be looked at is reported when it is opened
  if (!std::filesystem::is_directory(path, ignored)) {
    CONCLAVE_CHECK(std::filesystem::exists(path, ignored), "{}: there is no such record of routing decisions",
                   path.string());
    return {path};
  }
  std::vector<std::pair<std::int64_t, std::filesystem::path>> by_step;
  for (const auto& entry : std::filesystem::directory_iterator(path)) {
    const std::string stem = entry.path().stem().string();
    const bool named_so = entry.path().extension() == ".safetensors" && stem.starts_with("step_") &&
                          stem.size() > 5 && stem.find_first_not_of("0123456789", 5) == std::string::npos;
    if (named_so) by_step.emplace_back(whole_number(stem.substr(5), entry.path().string()), entry.path());
  }
  CONCLAVE_CHECK(!by_step.empty(), "{} holds no step_*.safetensors: train with log.routing={} first",
                 path.string(), path.string());
  std::ranges::sort(by_step);
  std::vector<std::filesystem::path> paths;
  for (auto& [step, file] : by_step) paths.push_back(std::move(file));
  return paths;
}

}  // namespace conclave
