#include "trainer/interop/model_files.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "comm/base/error.h"
#include "trainer/data/mapped_file.h"
#include "trainer/interop/element_conversion.h"

namespace conclave {
namespace {

constexpr const char* kIndexName = "model.safetensors.index.json";
constexpr const char* kOnlyFile = "model.safetensors";
constexpr const char* kEmbedding = "model.embed_tokens.weight";
constexpr const char* kHead = "lm_head.weight";
// Enough for disks that want several requests at once; what is asked for at once; what a thread maps,
// converts and gives back; what it checks and converts while it is in its cache.
constexpr std::size_t kReadAheadBytes = std::size_t{32} << 20;
constexpr std::int64_t kPartElements = std::int64_t{4} << 20;
constexpr std::size_t kBlockElements = std::size_t{1} << 20;
constexpr std::size_t kCachedElements = std::size_t{1} << 14;

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

// Elements of the file at `path` as fp32. Returns the index of the first that is not finite.
std::optional<std::size_t> convert(std::span<const std::byte> bytes, DType dtype, const std::string& path,
                                   std::span<float> out) {
  data::MappedFile::populate(bytes, path);
  std::optional<std::size_t> bad;
  for (std::size_t first = 0; first < out.size() && !bad; first += kCachedElements) {
    const std::size_t count = std::min(kCachedElements, out.size() - first);
    const auto part = bytes.subspan(first * size_of(dtype), count * size_of(dtype));
    bad = first_not_finite(part, dtype);
    if (bad) *bad += first;
    to_float(part, dtype, out.subspan(first, count));
  }
  data::MappedFile::release(bytes);
  return bad;
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

std::span<const std::byte> ModelFiles::Part::bytes() const {
  const std::size_t element_bytes = size_of(from.entry->dtype);
  return from.entry->bytes.subspan(
      static_cast<std::size_t>(elements.begin - piece->first_element) * element_bytes,
      static_cast<std::size_t>(elements.size()) * element_bytes);
}

void ModelFiles::append_parts(const Wanted& wanted, std::vector<Part>& parts) const {
  CONCLAVE_CHECK_EQ(static_cast<std::int64_t>(wanted.out.size()), wanted.elements.size(),
                    "elements to be read of " + wanted.tensor->name);
  for (const TensorPiece& piece : way_of(*wanted.tensor)) {
    const Range shared{std::max(wanted.elements.begin, piece.elements().begin),
                       std::min(wanted.elements.end, piece.elements().end)};
    if (shared.size() <= 0) continue;
    const Stored from = stored(piece);
    for (Range part{shared.begin, shared.begin}; part.end < shared.end; part.begin = part.end) {
      part.end = std::min(part.begin + kPartElements, shared.end);
      const auto out = wanted.out.subspan(static_cast<std::size_t>(part.begin - wanted.elements.begin),
                                          static_cast<std::size_t>(part.size()));
      parts.push_back({&piece, from, part, out});
    }
  }
}

void ModelFiles::read(std::span<const Wanted> wanted) const {
  std::vector<Part> parts;
  for (const Wanted& one : wanted) append_parts(one, parts);
  std::size_t asked = 0;  // parts that the disk was asked for
  std::size_t bytes_ahead = 0;
  for (const Part& part : parts) {
    for (; asked < parts.size() && bytes_ahead < kReadAheadBytes; ++asked) {
      data::MappedFile::read_ahead(parts[asked].bytes());
      bytes_ahead += parts[asked].bytes().size();
    }
    read_part(part);
    bytes_ahead -= part.bytes().size();
  }
}

// Block by block, by all threads.
void ModelFiles::read_part(const Part& part) {
  const std::span<float> out = part.out;
  const DType dtype = part.from.entry->dtype;
  const std::string path = part.from.file->path().string();
  const auto blocks = static_cast<std::int64_t>((out.size() + kBlockElements - 1) / kBlockElements);
  std::vector<std::optional<Error>> failures(static_cast<std::size_t>(blocks));
#pragma omp parallel for schedule(dynamic) if (blocks > 1)
  for (std::int64_t b = 0; b < blocks; ++b) {
    const auto first = static_cast<std::size_t>(b) * kBlockElements;
    const std::span<float> block = out.subspan(first, std::min(kBlockElements, out.size() - first));
    const auto bytes = part.bytes().subspan(first * size_of(dtype), block.size() * size_of(dtype));
    try {
      const auto bad = convert(bytes, dtype, path, block);
      const std::int64_t in_piece = part.elements.begin - part.piece->first_element;
      CONCLAVE_CHECK(!bad, "{}: tensor {} holds {} at element {}", path, part.piece->name, block[*bad],
                     in_piece + static_cast<std::int64_t>(first + *bad));
    } catch (const Error& error) {
      failures[static_cast<std::size_t>(b)] = error;
    }
  }
  for (const std::optional<Error>& failure : failures) {
    if (failure) throw Error(*failure);
  }
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
