// Files that are on the disk when a function returns, not merely in the page cache.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>

namespace conclave {

// A file being written from its start. Every failure (no permission, disk full, quota, a failing disk) throws
// Error with the path, the system's reason and the bytes that were written; a signal or a short write is no
// failure. Destroying it before close_durably() leaves a partial file behind. After a failure the file is to
// be given up: what a second fsync answers about lost pages can't be relied on.
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

// Creates a directory and those above it, all of them durably. One that is there is no error.
void create_directories_durably(const std::filesystem::path& directory);

// Renames within one file system; throws Error. Durable after sync_directory() of the parents.
void rename_path(const std::filesystem::path& from, const std::filesystem::path& to);
// Swaps two paths in one operation; false where the file system can't.
bool exchange_paths(const std::filesystem::path& a, const std::filesystem::path& b);

// Replaces `path` by `text`: readers see the old contents or the new, also after a power failure.
// Writes through "<path>.tmp".
void replace_file_durably(const std::filesystem::path& path, std::string_view text);

}  // namespace conclave
