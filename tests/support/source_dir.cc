#include "tests/support/source_dir.h"

namespace conclave::test {

std::filesystem::path source_dir() { return CONCLAVE_SOURCE_DIR; }

}  // namespace conclave::test
