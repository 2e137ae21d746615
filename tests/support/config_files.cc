#include "tests/support/config_files.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "comm/base/error.h"
#include "configs/load.h"

namespace conclave::test {

namespace fs = std::filesystem;

ConfigFiles::ConfigFiles() {
  std::string pattern = (fs::temp_directory_path() / "conclave_config_XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) throw Error("cannot make a temporary directory: " + pattern);
  directory_ = pattern;
}

ConfigFiles::~ConfigFiles() {
  std::error_code ignored;
  fs::remove_all(directory_, ignored);
}

std::string ConfigFiles::write(const std::string& name, std::string_view yaml) const {
  const fs::path path = fs::path(directory_) / name;
  fs::create_directories(path.parent_path());
  std::ofstream(path) << yaml;
  return path.string();
}

config::Experiment ConfigFiles::load(std::string_view yaml, const std::vector<std::string>& overrides) const {
  return config::load_experiment(write("run.yaml", yaml), overrides);
}

std::vector<std::string> ConfigFiles::faults(std::string_view yaml,
                                             const std::vector<std::string>& overrides) const {
  std::vector<std::string> lines;
  try {
    load(yaml, overrides);
    ADD_FAILURE() << "loaded without a fault:\n" << yaml;
  } catch (const ConfigError& error) {
    std::string message = error.what();
    for (std::size_t at; (at = message.find(directory_ + "/")) != std::string::npos;) {
      message.erase(at, directory_.size() + 1);
    }
    std::istringstream text(message);
    std::string line;
    std::getline(text, line);  // the heading
    while (std::getline(text, line)) lines.push_back(line);
  }
  return lines;
}

}  // namespace conclave::test
