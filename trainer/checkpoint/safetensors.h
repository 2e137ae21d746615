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
#include "trainer/durable_file.h"

struct XXH3_state_s;

namespace conclave {

// "F32", "BF16", ...
std::string_view safetensors_dtype(DType dtype);
// And back. Throws Error for a type that Conclave has no tensors of, naming `what` and the types it has.
DType dtype_from_safetensors(std::string_view name, const std::string& what);

// XXH3-64: the checksum of everything in a checkpoint.
std::uint64_t checksum(std::span<const std::byte> bytes);

// The same of bytes that come in pieces.
class Checksum {
 public:
  Checksum();
  ~Checksum();
  Checksum(const Checksum&) = delete;
  Checksum& operator=(const Checksum&) = delete;

  void update(std::span<const std::byte> bytes);
  std::uint64_t value() const;

 private:
  XXH3_state_s* state_;
};

// The bytes behind a tensor in host memory; throws Error for another device.
std::span<const std::byte> bytes_of(const ConstTensorView& tensor);

struct WrittenSafetensors {
  std::int64_t bytes = 0;             // of the whole file
  std::uint64_t header_checksum = 0;  // of everything before the tensors' bytes
};

// Writes a file whose tensors need not be in memory at once: first what they are, then their bytes, in pieces
// of any size.
class SafetensorsWriter {
 public:
  struct Entry {
    std::string name;
    DType dtype = DType::kFloat32;
    Shape shape;

    std::int64_t bytes() const { return shape.elements() * static_cast<std::int64_t>(size_of(dtype)); }
  };

  // Creates the file and writes the header. Larger element types come first, so that every tensor is aligned
  // to its elements. Throws Error for a name given twice and for any failure to write.
  SafetensorsWriter(std::filesystem::path path, std::vector<Entry> entries,
                    const std::map<std::string, std::string>& metadata = {});

  // In the order in which their bytes are to be written.
  const std::vector<Entry>& entries() const { return entries_; }
  void write(std::span<const std::byte> bytes) { file_.write(bytes); }
  // Returns when the file is on the disk. Throws Error if not exactly the bytes of all entries were written.
  WrittenSafetensors close_durably();

 private:
  std::filesystem::path path_;
  std::vector<Entry> entries_;
  DurableFile file_;
  std::uint64_t header_checksum_ = 0;
  std::int64_t expected_bytes_ = 0;
};

struct NamedTensor {
  std::string name;
  ConstTensorView value;  // host memory
};

// The same for tensors in memory.
WrittenSafetensors write_safetensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors,
                                     const std::map<std::string, std::string>& metadata = {});

// What a file holds.
struct SafetensorsContents {
  struct Entry {
    DType dtype = DType::kFloat32;
    Shape shape;
    std::span<const std::byte> bytes;  // within the file; may be unaligned in files of other writers
  };

  std::size_t header_bytes = 0;  // length and JSON, up to the tensors' bytes
  std::map<std::string, Entry, std::less<>> entries;
  std::map<std::string, std::string> metadata;
};

// Checks the header against the file's size: a header over 100,000,000 bytes, bad JSON, duplicate names or
// keys, unknown dtypes, sizes that do not match the shape, offsets out of range, overlaps and holes throw
// Error naming `what` and the tensor. Allocates no more than the header asks for with its own bytes.
SafetensorsContents parse_safetensors(std::span<const std::byte> file, const std::string& what);

// A memory-mapped file. The constructor throws as parse_safetensors().
class SafetensorsReader {
 public:
  using Entry = SafetensorsContents::Entry;  // its bytes live as long as the reader

  explicit SafetensorsReader(std::filesystem::path path);
  SafetensorsReader(const SafetensorsReader&) = delete;
  SafetensorsReader& operator=(const SafetensorsReader&) = delete;

  const std::filesystem::path& path() const { return path_; }
  const std::map<std::string, Entry, std::less<>>& entries() const { return contents_.entries; }
  const std::map<std::string, std::string>& metadata() const { return contents_.metadata; }
  // Null if there is no such tensor.
  const Entry* find(std::string_view name) const;
  // Length and JSON header, up to the tensors' bytes.
  std::span<const std::byte> header() const { return file_.bytes().first(contents_.header_bytes); }

 private:
  std::filesystem::path path_;
  data::MappedFile file_;
  SafetensorsContents contents_;
};

}  // namespace conclave
