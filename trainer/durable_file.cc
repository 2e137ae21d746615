#include "trainer/durable_file.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "comm/base/error.h"

namespace conclave {
namespace {

[[noreturn]] void throw_system_error(std::string_view action, const std::filesystem::path& path,
                                     const std::string& detail = "") {
  const int reason = errno;
  throw Error(fmt::format("can't {} {}: {}{}", action, path.string(), std::strerror(reason), detail));
}

// The result of a system call, made again as long as signals interrupt it.
template <class Call>
auto uninterrupted(Call&& call) {
  while (true) {
    const auto result = call();
    if (result >= 0 || errno != EINTR) return result;
  }
}

// " (1048576 bytes are free there)", or nothing where that can't be asked.
std::string free_space(int descriptor) {
  struct statvfs status = {};
  if (::fstatvfs(descriptor, &status) != 0) return "";
  return fmt::format(" ({} bytes are free there)", status.f_bavail * status.f_frsize);
}

}  // namespace

DurableFile::DurableFile(std::filesystem::path path) : path_(std::move(path)) {
  descriptor_ =
      uninterrupted([&] { return ::open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644); });
  if (descriptor_ < 0) throw_system_error("create", path_);
}

DurableFile::~DurableFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void DurableFile::write(std::span<const std::byte> bytes) {
  // Linux writes at most 2^31 - 4096 bytes at a time; smaller pieces also bound what a signal interrupts.
  constexpr std::size_t kPieceBytes = std::size_t{1} << 26;
  while (!bytes.empty()) {
    const ssize_t written = uninterrupted(
        [&] { return ::write(descriptor_, bytes.data(), std::min(bytes.size(), kPieceBytes)); });
    if (written == 0) errno = EIO;  // no progress and no reason: not to be tried forever
    if (written <= 0) {
      const int reason = errno;
      const std::string detail = fmt::format(", after {} bytes of it with {} to come{}", bytes_written_,
                                             bytes.size(), free_space(descriptor_));
      errno = reason;
      throw_system_error("write to", path_, detail);
    }
    bytes = bytes.subspan(static_cast<std::size_t>(written));
    bytes_written_ += written;
  }
}

void DurableFile::close_durably() {
  if (uninterrupted([&] { return ::fsync(descriptor_); }) != 0) {
    throw_system_error("flush to disk", path_, fmt::format(", {} bytes", bytes_written_));
  }
  // Linux has closed the descriptor also where a signal interrupted the call.
  if (::close(std::exchange(descriptor_, -1)) != 0 && errno != EINTR) throw_system_error("close", path_);
}

void sync_directory(const std::filesystem::path& directory) {
  const char* name = directory.empty() ? "." : directory.c_str();
  const int descriptor = uninterrupted([&] { return ::open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC); });
  if (descriptor < 0) throw_system_error("open directory", directory);
  // EINVAL: the file system has no notion of syncing a directory.
  const bool failed = uninterrupted([&] { return ::fsync(descriptor); }) != 0 && errno != EINVAL;
  const int reason = errno;
  ::close(descriptor);
  if (failed) {
    errno = reason;
    throw_system_error("flush to disk", directory);
  }
}

void create_directories_durably(const std::filesystem::path& directory) {
  if (directory.empty() || std::filesystem::is_directory(directory)) return;
  create_directories_durably(directory.parent_path());
  std::filesystem::create_directory(directory);
  sync_directory(directory.parent_path());
}

void rename_path(const std::filesystem::path& from, const std::filesystem::path& to) {
  if (uninterrupted([&] { return ::rename(from.c_str(), to.c_str()); }) != 0) {
    throw_system_error("rename", from, fmt::format("; it was to become {}", to.string()));
  }
}

bool exchange_paths(const std::filesystem::path& a, const std::filesystem::path& b) {
  const int result =
      uninterrupted([&] { return ::renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE); });
  if (result == 0) return true;
  if (errno == EINVAL || errno == ENOSYS) return false;
  throw_system_error("swap", a, fmt::format("; it was to change places with {}", b.string()));
}

void replace_file_durably(const std::filesystem::path& path, std::string_view text) {
  const std::filesystem::path temporary = path.string() + ".tmp";
  DurableFile file(temporary);
  file.write(text);
  file.close_durably();
  rename_path(temporary, path);
  sync_directory(path.parent_path());
}

}  // namespace conclave
