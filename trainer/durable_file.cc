#include "trainer/durable_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "comm/base/error.h"

namespace conclave {
namespace {

[[noreturn]] void throw_system_error(std::string_view action, const std::filesystem::path& path) {
  const int reason = errno;
  throw Error(fmt::format("can't {} {}: {}", action, path.string(), std::strerror(reason)));
}

}  // namespace

DurableFile::DurableFile(std::filesystem::path path) : path_(std::move(path)) {
  descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (descriptor_ < 0) throw_system_error("create", path_);
}

DurableFile::~DurableFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void DurableFile::write(std::span<const std::byte> bytes) {
  // Linux writes at most 2^31 - 4096 bytes at a time; smaller pieces also bound what a signal interrupts.
  constexpr std::size_t kPieceBytes = std::size_t{1} << 26;
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), std::min(bytes.size(), kPieceBytes));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) throw_system_error("write to", path_);
    bytes = bytes.subspan(static_cast<std::size_t>(written));
    bytes_written_ += written;
  }
}

void DurableFile::close_durably() {
  if (::fsync(descriptor_) != 0) throw_system_error("flush to disk", path_);
  if (::close(std::exchange(descriptor_, -1)) != 0) throw_system_error("close", path_);
}

void sync_directory(const std::filesystem::path& directory) {
  const int descriptor = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) throw_system_error("open directory", directory);
  // EINVAL: the file system has no notion of syncing a directory.
  const bool failed = ::fsync(descriptor) != 0 && errno != EINVAL;
  const int reason = errno;
  ::close(descriptor);
  if (failed) {
    errno = reason;
    throw_system_error("flush to disk", directory);
  }
}

void replace_file_durably(const std::filesystem::path& path, std::string_view text) {
  const std::filesystem::path temporary = path.string() + ".tmp";
  DurableFile file(temporary);
  file.write(text);
  file.close_durably();
  if (std::rename(temporary.c_str(), path.c_str()) != 0) throw_system_error("replace", path);
  const std::filesystem::path parent = path.parent_path();
  sync_directory(parent.empty() ? "." : parent);
}

}  // namespace conclave
