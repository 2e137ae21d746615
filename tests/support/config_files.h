// YAML files for tests of the configuration: written to a directory that is removed with the object.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "configs/run.pb.h"

namespace conclave::test {

// The one section of a configuration that has no default.
inline const std::string kSource = "data: {train: [{name: text, path: text.txt}]}\n";

class ConfigFiles {
 public:
  ConfigFiles();
  ~ConfigFiles();
  ConfigFiles(const ConfigFiles&) = delete;
  ConfigFiles& operator=(const ConfigFiles&) = delete;

  // Writes `yaml` to the file `name` and returns its path; directories in the name are made.
  std::string write(const std::string& name, std::string_view yaml) const;
  const std::string& directory() const { return directory_; }

  // Writes run.yaml and loads it.
  config::Experiment load(std::string_view yaml, const std::vector<std::string>& overrides = {}) const;
  // Writes run.yaml, expects that loading it throws ConfigError, and returns the lines of the message after
  // its heading, without the directory: "run.yaml:2:3: ...".
  std::vector<std::string> faults(std::string_view yaml,
                                  const std::vector<std::string>& overrides = {}) const;

 private:
  std::string directory_;
};

}  // namespace conclave::test
