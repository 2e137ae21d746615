// Data files of every format, written into the test's temporary directory.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

namespace conclave::test {

// A directory of this process's own; gone when the process ends.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = ::testing::TempDir() + "/conclave.XXXXXX";
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("can't make " + pattern);
    path_ = pattern;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// A path in a directory that belongs to the running test alone.
inline std::string temporary_path(std::string_view name) {
  static const TemporaryFolder of_process;
  const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
  const auto folder = of_process.path() / test->test_suite_name() / test->name();
  std::filesystem::create_directories(folder);
  return (folder / name).string();
}

inline std::string write_file(std::string_view name, std::string_view bytes) {
  const std::string path = temporary_path(name);
  std::ofstream(path, std::ios::binary) << bytes;
  return path;
}

// The values as they lie in memory, one after the other.
template <class T>
std::string bytes_of(std::span<const T> values) {
  return {reinterpret_cast<const char*>(values.data()), values.size_bytes()};
}
template <class T>
std::string bytes_of(const std::vector<T>& values) {
  return bytes_of(std::span<const T>(values));
}
template <class T>
std::string bytes_of(T value) {
  return bytes_of(std::span<const T>(&value, 1));
}

template <class T>
std::string llmc_shard(std::int32_t magic, std::int32_t version, const std::vector<T>& tokens) {
  std::vector<std::int32_t> header(256, 0);
  header[0] = magic;
  header[1] = version;
  header[2] = static_cast<std::int32_t>(tokens.size());
  return bytes_of(header) + bytes_of(tokens);
}

inline std::string megatron_index(std::uint8_t dtype_code, const std::vector<std::int32_t>& lengths,
                                  const std::vector<std::int64_t>& byte_offsets) {
  const std::vector<std::int64_t> document_edges = {0, static_cast<std::int64_t>(lengths.size())};
  return std::string("MMIDIDX\0\0", 9) + bytes_of(std::uint64_t{1}) + bytes_of(dtype_code) +
         bytes_of(static_cast<std::uint64_t>(lengths.size())) +
         bytes_of(static_cast<std::uint64_t>(document_edges.size())) + bytes_of(lengths) +
         bytes_of(byte_offsets) + bytes_of(document_edges);
}

}  // namespace conclave::test
