#include "trainer/interop/model_files.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "comm/base/error.h"
#include "trainer/data/mapped_file.h"
#include "trainer/interop/element_conversion.h"

namespace conclave {
namespace {

constexpr const char* kIndexName = "model.safetensors.index.json";
constexpr const char* kOnlyFile = "model.safetensors";
constexpr const char* kEmbedding = "model.embed_tokens.weight";
constexpr const char* kHead = "lm_head.weight";
constexpr std::int64_t kBlockElements = std::int64_t{1} << 20;
constexpr std::size_t kReadAheadBytes = std::size_t{16} << 20;

// weight_map: which file each tensor stands in.
std::map<std::string, std::string> read_index(const std::filesystem::path& path) {
  try {
    std::ifstream stream(path);
    return nlohmann::json::parse(stream).at("weight_map").get<std::map<std::string, std::string>>();
  } catch (const nlohmann::json::exception& error) {
    throw Error(fmt::format("{}: has no weight_map from tensors to files: {}", path.string(), error.what()));
  }
}

std::set<std::string> safetensors_in(const std::filesystem::path& directory) {
  if (std::filesystem::exists(directory / kOnlyFile)) return {kOnlyFile};
  std::set<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    if (entry.path().extension() == ".safetensors") files.insert(entry.path().filename().string());
  }
  CONCLAVE_CHECK(!files.empty(),
                 "{}: no *.safetensors file; other formats (pytorch_model.bin) have to be converted first",
                 directory.string());
  return files;
}

}  // namespace

ModelFiles::ModelFiles(std::filesystem::path directory) : directory_(std::move(directory)) {
  CONCLAVE_CHECK(std::filesystem::is_directory(directory_), "{}: is no directory", directory_.string());
  const std::filesystem::path index = directory_ / kIndexName;
  if (!std::filesystem::exists(index)) {
    for (const std::string& file : safetensors_in(directory_)) open(file);
    return;
  }
  const std::map<std::string, std::string> file_of_tensor = read_index(index);
  std::set<std::string> files;
  for (const auto& [tensor, file] : file_of_tensor) files.insert(file);
  for (const std::string& file : files) open(file);
  check_against_index(file_of_tensor);
}

void ModelFiles::open(const std::string& file) {
  const std::filesystem::path path = directory_ / file;
  CONCLAVE_CHECK(std::filesystem::exists(path), "{} is missing; {} names it", path.string(), kIndexName);
  files_.push_back(std::make_unique<SafetensorsReader>(path));
  for (const auto& [name, entry] : files_.back()->entries()) {
    const auto [first, is_new] = tensors_.emplace(name, Stored{files_.back().get(), &entry});
    CONCLAVE_CHECK(is_new, "{}: tensor {} stands in {} too", path.string(), name,
                   first->second.file->path().filename().string());
  }
}

void ModelFiles::check_against_index(const std::map<std::string, std::string>& file_of_tensor) const {
  for (const auto& [tensor, file] : file_of_tensor) {
    const auto found = tensors_.find(tensor);
    CONCLAVE_CHECK(found != tensors_.end() && found->second.file->path().filename() == file,
                   "{}: {} says that tensor {} stands in {}, which doesn't have it", directory_.string(),
                   kIndexName, tensor, file);
  }
}

std::int64_t ModelFiles::bytes() const {
  std::int64_t sum = 0;
  for (const auto& [name, stored] : tensors_) sum += static_cast<std::int64_t>(stored.entry->bytes.size());
  return sum;
}

// The way whose first tensor is there; of a way that is there in part, the missing piece is named later.
const std::vector<TensorPiece>& ModelFiles::way_of(const TensorNames& tensor) const {
  const auto holds_any = [&](const std::vector<TensorPiece>& way) {
    return std::ranges::any_of(way, [&](const TensorPiece& piece) { return tensors_.contains(piece.name); });
  };
  const auto found = std::ranges::find_if(tensor.ways, holds_any);
  if (found != tensor.ways.end()) return *found;
  std::string names;
  for (const auto& way : tensor.ways) names += (names.empty() ? "" : ", nor ") + way.front().name;
  throw Error(fmt::format("{}: there is no tensor {}, which {} is read from", directory_.string(), names,
                          tensor.name));
}

ModelFiles::Stored ModelFiles::stored(const TensorPiece& piece) const {
  const auto found = tensors_.find(piece.name);
  CONCLAVE_CHECK(found != tensors_.end(), "{}: there is no tensor {}", directory_.string(), piece.name);
  const Stored& stored = found->second;
  const std::string what = fmt::format("{}: tensor {}", stored.file->path().string(), piece.name);
  CONCLAVE_CHECK(stored.entry->shape == piece.shape, "{} has shape {}, config.json makes it {}", what,
                 stored.entry->shape.text(), piece.shape.text());
  CONCLAVE_CHECK(is_floating_point(stored.entry->dtype),
                 "{} has elements of type {}; weights are F32, BF16 or "
                 "F16",
                 what, name_of(stored.entry->dtype));
  return stored;
}

void ModelFiles::read(const TensorNames& tensor, Range elements, std::span<float> out) const {
  CONCLAVE_CHECK_EQ(static_cast<std::int64_t>(out.size()), elements.size(),
                    "elements to be read of " + tensor.name);
  for (const TensorPiece& piece : way_of(tensor)) {
    const Range shared{std::max(elements.begin, piece.elements().begin),
                       std::min(elements.end, piece.elements().end)};
    if (shared.size() <= 0) continue;
    const Stored from = stored(piece);
    // Converted in blocks, so that little more than what the reader keeps is in memory.
    for (Range block{shared.begin, shared.begin}; block.end < shared.end; block.begin = block.end) {
      block.end = std::min(block.begin + kBlockElements, shared.end);
      read_block(piece, from, block,
                 out.subspan(static_cast<std::size_t>(block.begin - elements.begin),
                             static_cast<std::size_t>(block.size())));
    }
  }
}

// `block`: elements of the Conclave tensor, all of them in `piece`.
void ModelFiles::read_block(const TensorPiece& piece, const Stored& from, Range block,
                            std::span<float> out) const {
  const std::size_t element_bytes = size_of(from.entry->dtype);
  const std::int64_t first = block.begin - piece.first_element;
  read_ahead(from, static_cast<std::size_t>(first) * element_bytes);
  const std::span<const std::byte> bytes =
      from.entry->bytes.subspan(static_cast<std::size_t>(first) * element_bytes, out.size() * element_bytes);
  to_float(bytes, from.entry->dtype, out);
  data::MappedFile::release(bytes);
  const auto bad = first_not_finite(out);
  CONCLAVE_CHECK(!bad, "{}: tensor {} holds {} at element {}", from.file->path().string(), piece.name,
                 out[*bad], first + static_cast<std::int64_t>(*bad));
}

// The disk reads the next blocks while this one is converted.
void ModelFiles::read_ahead(const Stored& from, std::size_t at) {
  const std::span<const std::byte> rest = from.entry->bytes.subspan(at);
  data::MappedFile::read_ahead(rest.first(std::min(rest.size(), kReadAheadBytes)));
}

void ModelFiles::check_complete(std::span<const TensorNames> known) const {
  std::set<std::string, std::less<>> used;
  for (const TensorNames& tensor : known) {
    for (const TensorPiece& piece : way_of(tensor)) {
      stored(piece);
      used.insert(piece.name);
    }
  }
  for (const auto& [name, stored] : tensors_) {
    if (used.contains(name) || name.ends_with(".rotary_emb.inv_freq") || is_copy_of_embedding(name)) continue;
    throw Error(fmt::format("{}: tensor {} has no place in the model that config.json describes",
                            stored.file->path().string(), name));
  }
}

bool ModelFiles::is_copy_of_embedding(const std::string& name) const {
  const auto embedding = tensors_.find(kEmbedding);
  if (name != kHead || embedding == tensors_.end()) return false;
  return std::ranges::equal(tensors_.find(name)->second.entry->bytes, embedding->second.entry->bytes);
}

}  // namespace conclave
