#include "tests/support/temporary_directory.h"

#include <cstdlib>
#include <string>

#include "comm/base/error.h"
#include "trainer/checkpoint/agreement.h"

namespace conclave::test {
namespace {

std::string make_directory() {
  std::string name = (std::filesystem::temp_directory_path() / "conclave_test_XXXXXX").string();
  CONCLAVE_CHECK(::mkdtemp(name.data()) != nullptr, "can't make a temporary directory like {}", name);
  return name;
}

}  // namespace

TemporaryDirectory::TemporaryDirectory() : path_(make_directory()) {}

TemporaryDirectory::TemporaryDirectory(Communicator& world)
    : path_(broadcast_text(world, world.rank() == 0 ? make_directory() : "", 0)), world_(&world) {}

TemporaryDirectory::~TemporaryDirectory() {
  if (world_ != nullptr) world_->barrier().wait();
  std::error_code best_effort;
  if (world_ == nullptr || world_->rank() == 0) std::filesystem::remove_all(path_, best_effort);
}

}  // namespace conclave::test
