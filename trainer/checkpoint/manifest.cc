#include "trainer/checkpoint/manifest.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <map>
#include <set>

#include "comm/base/error.h"
#include "trainer/checkpoint/checkpoint_paths.h"
#include "trainer/checkpoint/safetensors.h"
#include "trainer/durable_file.h"

namespace conclave {
namespace {

// The last field of the file: one byte of tag (field 15, fixed64) and eight of checksum.
constexpr std::size_t kSealBytes = 9;

Shape shape_of(const checkpoint::Tensor& tensor) {
  const auto extent = [&](int dimension) { return tensor.shape(dimension); };
  switch (tensor.shape_size()) {
    case 0:
      return {};
    case 1:
      return {extent(0)};
    case 2:
      return {extent(0), extent(1)};
    case 3:
      return {extent(0), extent(1), extent(2)};
    default:
      return {extent(0), extent(1), extent(2), extent(3)};
  }
}

// Names stand in error messages, tables and paths.
bool is_printable(std::string_view name) {
  return !name.empty() &&
         std::ranges::none_of(name, [](char c) { return (c >= 0 && c < ' ') || c == '\x7f'; });
}

void check_file_name(const std::string& name) {
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '.';
  };
  CONCLAVE_CHECK(!name.empty() && name.size() <= 255 && name.front() != '.' && name != kManifestName &&
                     std::ranges::all_of(name, plain),
                 "\"{}\" is not the name of a file in the checkpoint's directory",
                 is_printable(name) ? name : "(unprintable)");
}

// Shape and type; returns the bytes of a row.
std::int64_t check_tensor(const checkpoint::Tensor& tensor) {
  const std::string what = "tensor " + tensor.name();
  const DType dtype =
      dtype_from_safetensors(is_printable(tensor.dtype()) ? tensor.dtype() : "(unprintable)", what);
  CONCLAVE_CHECK(tensor.sharding() == checkpoint::SHARDING_REPLICATED ||
                     tensor.sharding() == checkpoint::SHARDING_EXPERT,
                 "{}: sharding {} is unknown", what, static_cast<int>(tensor.sharding()));
  CONCLAVE_CHECK(tensor.shape_size() <= Shape::kMaxRank, "{}: {} dimensions, at most {} are supported", what,
                 tensor.shape_size(), Shape::kMaxRank);
  CONCLAVE_CHECK(tensor.sharding() != checkpoint::SHARDING_EXPERT || tensor.shape_size() > 0,
                 "{}: a scalar has no experts", what);
  CONCLAVE_CHECK(tensor.sharding() != checkpoint::SHARDING_EXPERT ||
                     (tensor.rows_per_expert() >= 0 &&
                      tensor.shape(0) % std::max<std::int64_t>(tensor.rows_per_expert(), 1) == 0),
                 "{}: {} rows are not experts of {} rows", what,
                 tensor.shape_size() > 0 ? tensor.shape(0) : 0, tensor.rows_per_expert());
  auto bytes = static_cast<std::int64_t>(size_of(dtype));
  std::int64_t row_bytes = bytes;
  for (int dimension = 0; dimension < tensor.shape_size(); ++dimension) {
    const std::int64_t extent = tensor.shape(dimension);
    CONCLAVE_CHECK(extent >= 0 && !__builtin_mul_overflow(bytes, std::max<std::int64_t>(extent, 1), &bytes),
                   "{}: extent {} of dimension {} is impossible", what, extent, dimension);
    if (dimension > 0) row_bytes *= extent;
  }
  return row_bytes;
}

void check_slices(const checkpoint::Tensor& tensor, std::int64_t row_bytes,
                  std::map<std::string, std::int64_t>& bytes_left_of_file) {
  std::int64_t covered = 0;
  const std::int64_t rows = row_count(shape_of(tensor));
  for (const checkpoint::Slice& slice : tensor.slices()) {
    const std::string what = describe_slice(tensor.name(), {slice.row_begin(), slice.row_end()});
    const auto file = bytes_left_of_file.find(slice.file());
    CONCLAVE_CHECK(file != bytes_left_of_file.end(), "{}: its file \"{}\" is not one of the checkpoint", what,
                   is_printable(slice.file()) ? slice.file() : "(unprintable)");
    CONCLAVE_CHECK(slice.row_begin() < slice.row_end(), "{}: no rows", what);
    CONCLAVE_CHECK(slice.row_begin() >= covered, "{} is there twice: rows up to {} are in another piece",
                   what, covered);
    CONCLAVE_CHECK(slice.row_begin() == covered, "{} are missing",
                   describe_slice(tensor.name(), {covered, slice.row_begin()}));
    CONCLAVE_CHECK(slice.row_end() <= rows, "{}: pieces up to row {} of a tensor of {} rows", tensor.name(),
                   slice.row_end(), rows);
    file->second -= (slice.row_end() - slice.row_begin()) * row_bytes;
    CONCLAVE_CHECK(file->second >= 0, "{}: {} is too small for it and the pieces before it", what,
                   slice.file());
    covered = slice.row_end();
  }
  CONCLAVE_CHECK(covered == rows, "{} are missing", describe_slice(tensor.name(), {covered, rows}));
}

std::string contents_of(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  CONCLAVE_CHECK(stream.good(), "{}: can't be opened, so this is not a complete checkpoint", path.string());
  try {
    return {std::istreambuf_iterator<char>(stream), {}};
  } catch (const std::ios_base::failure& error) {
    throw Error(fmt::format("{}: can't be read: {}", path.string(), error.what()));
  }
}

}  // namespace

void write_manifest(const std::filesystem::path& checkpoint, const checkpoint::Manifest& manifest) {
  checkpoint::Manifest unsealed = manifest;
  unsealed.clear_xxh3_64();
  DurableFile file(checkpoint / kManifestName);
  file.write(sealed_manifest(unsealed.SerializeAsString()));
  file.close_durably();
}

std::string sealed_manifest(std::string contents) {
  checkpoint::Manifest seal;
  seal.set_xxh3_64(checksum(std::as_bytes(std::span(contents))));
  return contents + seal.SerializeAsString();
}

checkpoint::Manifest read_manifest(const std::filesystem::path& checkpoint) {
  const std::filesystem::path path = checkpoint / kManifestName;
  checkpoint::Manifest manifest = parse_manifest(contents_of(path), path.string());
  const std::optional<std::int64_t> step_of_name = step_of(checkpoint);
  CONCLAVE_CHECK(!step_of_name || *step_of_name == manifest.progress().step(),
                 "{} is of step {}: it does not belong into this directory", path.string(),
                 manifest.progress().step());
  return manifest;
}

checkpoint::Manifest parse_manifest(std::string_view contents, const std::string& what) {
  const std::size_t sealed_bytes = contents.size() - std::min(contents.size(), kSealBytes);
  checkpoint::Manifest seal;
  CONCLAVE_CHECK(seal.ParseFromString(std::string(contents.substr(sealed_bytes))) && seal.has_xxh3_64(),
                 "{} is damaged: its {} bytes do not end with a checksum", what, contents.size());
  const std::uint64_t found = checksum(std::as_bytes(std::span(contents).first(sealed_bytes)));
  CONCLAVE_CHECK(found == seal.xxh3_64(), "{} is damaged: its XXH3 is {:016x}, expected {:016x}", what, found,
                 seal.xxh3_64());

  checkpoint::Manifest manifest;
  constexpr auto kMaxBytes = static_cast<std::size_t>(INT32_MAX);  // protobuf's own limit
  CONCLAVE_CHECK(contents.size() <= kMaxBytes &&
                     manifest.ParseFromArray(contents.data(), static_cast<int>(contents.size())),
                 "{} is no manifest", what);
  CONCLAVE_CHECK(manifest.format_version() == kCheckpointFormatVersion,
                 "{}: checkpoint format {} of Conclave {}; this Conclave reads format {}", what,
                 manifest.format_version(),
                 is_printable(manifest.conclave_version()) ? manifest.conclave_version() : "(unprintable)",
                 kCheckpointFormatVersion);
  try {
    check_manifest(manifest);
  } catch (const Error& error) {
    throw Error(fmt::format("{}: {}", what, error.what()));
  }
  return manifest;
}

void check_manifest(const checkpoint::Manifest& manifest) {
  const checkpoint::Progress& progress = manifest.progress();
  CONCLAVE_CHECK(std::min({progress.step(), progress.tokens(), progress.next_sample(),
                           progress.optimizer_updates()}) >= 0,
                 "step {}, tokens {}, next sample {} and updates {} can't be negative", progress.step(),
                 progress.tokens(), progress.next_sample(), progress.optimizer_updates());
  std::int64_t earlier = -1;
  for (const std::int64_t batch : progress.left_out_batches()) {
    CONCLAVE_CHECK(batch > earlier, "batches that are left out can't go from {} to {}", earlier, batch);
    earlier = batch;
  }
  std::map<std::string, std::int64_t> bytes_left_of_file;
  for (const checkpoint::File& file : manifest.files()) {
    check_file_name(file.name());
    CONCLAVE_CHECK(file.bytes() >= 0, "file {} can't have {} bytes", file.name(), file.bytes());
    CONCLAVE_CHECK(bytes_left_of_file.emplace(file.name(), file.bytes()).second, "file {} is listed twice",
                   file.name());
  }
  std::set<std::string> names;
  for (const checkpoint::Tensor& tensor : manifest.tensors()) {
    CONCLAVE_CHECK(is_printable(tensor.name()), "tensor {} of {} has an unprintable name or none",
                   names.size(), manifest.tensors_size());
    CONCLAVE_CHECK(names.insert(tensor.name()).second, "tensor {} is listed twice", tensor.name());
    check_slices(tensor, check_tensor(tensor), bytes_left_of_file);
  }
}

GlobalTensor global_tensor(const checkpoint::Tensor& tensor) {
  return {tensor.name(), dtype_from_safetensors(tensor.dtype(), tensor.name()), shape_of(tensor),
          tensor.sharding() == checkpoint::SHARDING_EXPERT ? Sharding::kExpert : Sharding::kReplicated,
          std::max<std::int64_t>(tensor.rows_per_expert(), 1)};
}

checkpoint::Tensor describe(const GlobalTensor& tensor) {
  checkpoint::Tensor description;
  description.set_name(tensor.name);
  description.set_dtype(std::string(safetensors_dtype(tensor.dtype)));
  for (int dimension = 0; dimension < tensor.shape.rank(); ++dimension) {
    description.add_shape(tensor.shape[dimension]);
  }
  description.set_sharding(tensor.sharding == Sharding::kExpert ? checkpoint::SHARDING_EXPERT
                                                                : checkpoint::SHARDING_REPLICATED);
  description.set_rows_per_expert(tensor.rows_per_expert);
  return description;
}

std::int64_t row_count(const Shape& shape) { return shape.rank() == 0 ? 1 : shape[0]; }

Shape shape_of_rows(const Shape& shape, std::int64_t rows) {
  return shape.rank() == 0 ? shape : shape.with_rows(rows);
}

std::string entry_name(const std::string& tensor, Range rows, std::int64_t all_rows) {
  if (rows == Range{0, all_rows}) return tensor;
  return fmt::format("{}[{}:{}]", tensor, rows.begin, rows.end);
}

std::string describe_slice(const std::string& tensor, Range rows) {
  return fmt::format("{}, rows [{}, {})", tensor, rows.begin, rows.end);
}

TrainingProgress progress_of(const checkpoint::Manifest& manifest) {
  const checkpoint::Progress& progress = manifest.progress();
  return {.step = progress.step(),
          .tokens = progress.tokens(),
          .next_sample = progress.next_sample(),
          .optimizer_updates = progress.optimizer_updates(),
          .seed = progress.seed(),
          .resolved_config = manifest.resolved_config(),
          .recent_losses = {progress.recent_losses().begin(), progress.recent_losses().end()},
          .left_out_batches = {progress.left_out_batches().begin(), progress.left_out_batches().end()}};
}

}  // namespace conclave
