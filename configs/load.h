// From a YAML file and the command line to a checked experiment.
#pragma once

#include <span>
#include <string>

#include "configs/run.pb.h"

namespace conclave::config {

// Reads `path`, first the file that its key `base` names (relative to it, and so on), then the overrides
// `key.path=value`: what is later wins key by key, lists are replaced. Then checks the rules of validate.h
// and resolves every `auto` (resolve.h). The files that data.train names are not looked at.
//
// Throws one ConfigError that lists every fault, each on a line of its own: its place ("run.yaml:3:12",
// "command line"), the key, what was found, what is valid, how to mend it.
Experiment load_experiment(const std::string& path, std::span<const std::string> overrides);

// The same for YAML that is no file of its own, such as the configuration in a checkpoint (to_yaml in
// show.h). `name` stands for the file in messages; `base` is a fault, for there is nothing that it
// could be relative to.
Experiment parse_experiment(const std::string& yaml, const std::string& name,
                            std::span<const std::string> overrides);

}  // namespace conclave::config
