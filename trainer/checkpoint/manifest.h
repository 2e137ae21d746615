// Reading, writing and checking the manifest of a checkpoint.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "comm/base/partition.h"
#include "layers/tensor/shape.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/manifest.pb.h"
#include "trainer/checkpoint/shard_plan.h"

namespace conclave {

inline constexpr const char* kManifestName = "manifest.pb";
inline constexpr std::uint32_t kCheckpointFormatVersion = 1;

// Seals the manifest with its checksum and returns when it is on the disk.
void write_manifest(const std::filesystem::path& checkpoint, const checkpoint::Manifest& manifest);

// The bytes of a manifest without its checksum, with it.
std::string sealed_manifest(std::string contents);

// Throws Error if it is missing, damaged, of another format version, does not describe each tensor exactly
// once, or is of another step than the directory's name says.
checkpoint::Manifest read_manifest(const std::filesystem::path& checkpoint);

// The same from the file's contents; `what` names them in errors. The checksum comes first: damaged bytes
// never reach the parser of the whole.
checkpoint::Manifest parse_manifest(std::string_view contents, const std::string& what);

// Throws Error naming the tensor or file unless names are unique and plain, shapes and sizes are possible,
// and the slices of each tensor cover its rows once, in order, and lie in the manifest's files.
void check_manifest(const checkpoint::Manifest& manifest);

// A checked manifest's tensor without its slices, and back.
GlobalTensor global_tensor(const checkpoint::Tensor& tensor);
checkpoint::Tensor describe(const GlobalTensor& tensor);

// Rows of dimension 0; a scalar is one row.
std::int64_t row_count(const Shape& shape);
// `shape` cut down to `rows` rows.
Shape shape_of_rows(const Shape& shape, std::int64_t rows);

// The entry of a slice in its safetensors file: the tensor's name, followed by "[begin:end]"
// unless it is the whole.
std::string entry_name(const std::string& tensor, Range rows, std::int64_t all_rows);
// "layers.0.moe.experts.down, rows [4, 8)": for messages.
std::string describe_slice(const std::string& tensor, Range rows);

TrainingProgress progress_of(const checkpoint::Manifest& manifest);

}  // namespace conclave
