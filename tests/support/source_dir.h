// Where the source tree of the tested build stands.
#pragma once

#include <filesystem>

namespace conclave::test {

std::filesystem::path source_dir();

}  // namespace conclave::test
