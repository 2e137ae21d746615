#include "trainer/data/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <utility>

#include "comm/base/error.h"

namespace conclave::data {

static_assert(std::endian::native == std::endian::little,
              "data files are little-endian and mapped as they are");

namespace {

struct Descriptor {
  int number = -1;
  ~Descriptor() {
    if (number >= 0) ::close(number);
  }
};

// From the beginning of the first page of `part` on.
std::span<std::byte> pages_around(std::span<const std::byte> part) {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const std::uintptr_t before = reinterpret_cast<std::uintptr_t>(part.data()) % page;
  return {const_cast<std::byte*>(part.data()) - before, part.size() + before};
}

}  // namespace

MappedFile::MappedFile(std::string path) : path_(std::move(path)) {
  const Descriptor file{::open(path_.c_str(), O_RDONLY | O_CLOEXEC)};
  CONCLAVE_CHECK(file.number >= 0, "{}: can't be opened: {}", path_, std::strerror(errno));
  struct stat status = {};
  CONCLAVE_CHECK(::fstat(file.number, &status) == 0, "{}: can't be examined: {}", path_,
                 std::strerror(errno));
  CONCLAVE_CHECK(S_ISREG(status.st_mode), "{}: is a {}, not a file of data", path_,
                 S_ISDIR(status.st_mode) ? "directory" : "device or pipe");
  CONCLAVE_CHECK(status.st_size > 0, "{}: is empty (0 bytes); write or copy it again", path_);
  size_bytes_ = status.st_size;
  void* mapping =
      ::mmap(nullptr, static_cast<std::size_t>(size_bytes_), PROT_READ, MAP_SHARED, file.number, 0);
  CONCLAVE_CHECK(mapping != MAP_FAILED, "{}: its {} bytes can't be mapped into memory: {}", path_,
                 size_bytes_, std::strerror(errno));
  data_ = static_cast<const std::byte*>(mapping);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), static_cast<std::size_t>(size_bytes_));
}

void MappedFile::read_ahead(std::span<const std::byte> part) {
  const std::span<std::byte> pages = pages_around(part);
  ::madvise(pages.data(), pages.size(), MADV_WILLNEED);  // only advice
}

void MappedFile::populate(std::span<const std::byte> part, const std::string& path) {
  const std::span<std::byte> pages = pages_around(part);
  int result = 0;
  do result = ::madvise(pages.data(), pages.size(), MADV_POPULATE_READ);
  while (result != 0 && errno == EINTR);
  // Linux before 5.14 doesn't know it; then pages come as they are touched.
  CONCLAVE_CHECK(result == 0 || errno == EINVAL,
                 "{}: {} bytes that were there when it was opened can't be read any more: {}", path,
                 part.size(),
                 errno == EFAULT ? "the file is shorter, or its disk fails" : std::strerror(errno));
}

void MappedFile::release(std::span<const std::byte> part) {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = (reinterpret_cast<std::uintptr_t>(part.data()) + page - 1) / page * page;
  const auto end = reinterpret_cast<std::uintptr_t>(part.data() + part.size()) / page * page;
  // Only advice: what the system doesn't take back, it keeps.
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_bytes_(std::exchange(other.size_bytes_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_bytes_, other.size_bytes_);
  return *this;
}

}  // namespace conclave::data
