// Files that are on the disk when a function returns, not merely in the page cache.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>

namespace conclave {

// A file being written from its start. Every failure (no permission, disk full, quota) throws Error with the
// path and the system's reason. Destroying it before close_durably() leaves a partial file behind.
class DurableFile {
 public:
  // Creates the file, or empties it.
  explicit DurableFile(std::filesystem::path path);
  ~DurableFile();
  DurableFile(const DurableFile&) = delete;
  DurableFile& operator=(const DurableFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }
  // Returns once the contents are on the disk.
  void close_durably();

  std::int64_t bytes_written() const { return bytes_written_; }

 private:
  std::filesystem::path path_;
  int descriptor_;
  std::int64_t bytes_written_ = 0;
};

// Makes the entries of a directory (created, renamed, removed files) durable.
void sync_directory(const std::filesystem::path& directory);

// Replaces `path` by `text`: readers see the old contents or the new, also after a power failure.
// Writes through "<path>.tmp".
void replace_file_durably(const std::filesystem::path& path, std::string_view text);

}  // namespace conclave
