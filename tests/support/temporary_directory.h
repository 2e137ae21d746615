// A directory that lives as long as a test.
#pragma once

#include <filesystem>

#include "comm/communicator.h"

namespace conclave::test {

class TemporaryDirectory {
 public:
  TemporaryDirectory();
  // Collective: one directory for all ranks of `world`, made and removed by rank 0.
  explicit TemporaryDirectory(Communicator& world);
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  Communicator* world_ = nullptr;
};

}  // namespace conclave::test
