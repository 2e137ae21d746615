// The safetensors file format: u64 little-endian N | N bytes of JSON | the tensors' bytes, without holes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "layers/tensor/tensor_view.h"
#include "trainer/data/mapped_file.h"

namespace conclave {

// "F32", "BF16", ...
std::string_view safetensors_dtype(DType dtype);
// And back. Throws Error for a type that Conclave has no tensors of, naming `what` and the types it has.
DType dtype_from_safetensors(std::string_view name, const std::string& what);

// XXH3-64: the checksum of everything in a checkpoint.
std::uint64_t checksum(std::span<const std::byte> bytes);
// The bytes behind a tensor in host memory; throws Error for another device.
std::span<const std::byte> bytes_of(const ConstTensorView& tensor);

struct NamedTensor {
  std::string name;
  ConstTensorView value;  // host memory
};

struct WrittenSafetensors {
  std::int64_t bytes = 0;             // of the whole file
  std::uint64_t header_checksum = 0;  // of everything before the tensors' bytes
};

// Writes the tensors straight from their memory and returns when they are on the disk. Larger element types
// come first, so that every tensor is aligned to its elements. Throws Error for a name given twice and for
// any failure to write.
WrittenSafetensors write_safetensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors,
                                     const std::map<std::string, std::string>& metadata = {});

// A memory-mapped file. The constructor checks the header against the file's size: a header over 100,000,000
// bytes, bad JSON, duplicate names or keys, unknown dtypes, sizes that do not match the shape, offsets out of
// range, overlaps and holes throw Error naming file and tensor.
class SafetensorsReader {
 public:
  struct Entry {
    DType dtype = DType::kFloat32;
    Shape shape;
    std::span<const std::byte>
        bytes;  // lives as long as the reader; may be unaligned in files of other writers
  };

  explicit SafetensorsReader(std::filesystem::path path);
  SafetensorsReader(const SafetensorsReader&) = delete;
  SafetensorsReader& operator=(const SafetensorsReader&) = delete;

  const std::filesystem::path& path() const { return path_; }
  const std::map<std::string, Entry, std::less<>>& entries() const { return entries_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  // Null if there is no such tensor.
  const Entry* find(std::string_view name) const;
  // Length and JSON header, up to the tensors' bytes.
  std::span<const std::byte> header() const { return file_.bytes().first(header_bytes_); }

 private:
  std::filesystem::path path_;
  data::MappedFile file_;
  std::size_t header_bytes_ = 0;
  std::map<std::string, Entry, std::less<>> entries_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace conclave
