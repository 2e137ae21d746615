// A checkpoint on disk, read piece by piece; nothing leaves it unchecked.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>

#include "trainer/checkpoint/manifest.h"
#include "trainer/checkpoint/safetensors.h"

namespace conclave {

class CheckpointReader {
 public:
  // Reads the manifest; throws Error if it is missing or damaged. Files are opened when first needed.
  explicit CheckpointReader(std::filesystem::path directory);

  const std::filesystem::path& path() const { return directory_; }
  const checkpoint::Manifest& manifest() const { return manifest_; }
  // Null if there is no such tensor.
  const checkpoint::Tensor* find(std::string_view tensor) const;

  // The file with its size and header checked; throws Error that says what is wrong with it.
  const SafetensorsReader& file(const std::string& name);

  // The bytes of a slice, whose checksum is checked when it is first asked for. They live as long as the
  // reader.
  std::span<const std::byte> slice(const checkpoint::Tensor& tensor, const checkpoint::Slice& slice);

  // Rows of a tensor, in order, in one or more pieces.
  using RowSink = std::function<void(Range rows, std::span<const std::byte> bytes)>;
  void rows(const checkpoint::Tensor& tensor, Range rows, const RowSink& sink);

 private:
  std::filesystem::path directory_;
  checkpoint::Manifest manifest_;
  std::map<std::string, const checkpoint::Tensor*, std::less<>> tensors_;
  std::map<std::string, const checkpoint::File*> files_;
  std::map<std::string, std::unique_ptr<SafetensorsReader>> opened_;
  std::set<const checkpoint::Slice*> verified_;
};

// Throws Error unless the manifest is whole and every file is there with its size and header. Reads
// no tensor: cheap, also for a large checkpoint.
void check_complete(const std::filesystem::path& checkpoint);

}  // namespace conclave
