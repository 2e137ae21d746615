// A file mapped read-only into memory: pages are read when touched and shared by all ranks of a host.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

namespace conclave::data {

class MappedFile {
 public:
  // Throws Error if `path` can't be opened, is no regular file or is empty. A file that another program
  // shortens while it is mapped kills the reader (SIGBUS): data files must not change during a run.
  explicit MappedFile(std::string path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  const std::string& path() const { return path_; }
  std::int64_t size_bytes() const { return size_bytes_; }
  std::span<const std::byte> bytes() const { return {data_, static_cast<std::size_t>(size_bytes_)}; }

  // Lets the system read `part` of bytes() while other work is done.
  static void read_ahead(std::span<const std::byte> part);
  // Maps all pages of `part` of the bytes of the file at `path`. Throws Error where they can't be read (the
  // file has become shorter, the disk fails): touching them would kill the process.
  static void populate(std::span<const std::byte> part, const std::string& path);
  // Gives the pages that lie wholly in `part` of bytes() back to the system: what has been read once needn't
  // count as this process's memory. They are read again when touched.
  static void release(std::span<const std::byte> part);

  // The little-endian value at a byte offset, which need not be aligned. Precondition: it lies in the file.
  template <class T>
  T value_at(std::int64_t offset_bytes) const {
    T value;
    std::memcpy(&value, data_ + offset_bytes, sizeof(T));
    return value;
  }

 private:
  std::string path_;
  const std::byte* data_ = nullptr;
  std::int64_t size_bytes_ = 0;
};

}  // namespace conclave::data
