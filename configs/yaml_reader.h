// Strict reading of YAML into the schema: every fault is collected with its place, none ends the reading.
#pragma once

#include <yaml-cpp/yaml.h>

#include <string>

#include "configs/keys.h"
#include "configs/reading.h"

namespace conclave::config {

// Where YAML was written: a file, whose positions are told, or the command line.
struct Origin {
  std::string name;  // "run.yaml", "command line"
  bool has_positions = true;

  std::string place(const YAML::Mark& mark) const;  // "run.yaml:3:12", counted from 1
};

// Reads the keys of `map` into `message`, the section at `path`; "" is the whole experiment, whose key `base`
// is passed over because load.cc follows it. Sections merge key by key, lists replace.
void read_section(const YAML::Node& map, Message& message, const std::string& path, const Origin& origin,
                  Reading& reading);

// Reads the value of one key, `field` of `message`. `key_place` is where the key stands.
void read_value(const YAML::Node& value, const Field& field, Message& message, const std::string& path,
                const std::string& key_place, const Origin& origin, Reading& reading);

// Reports that `name`, met in the section at `path`, is no key, and what may have been meant.
void report_unknown_key(const std::string& name, const google::protobuf::Descriptor& section,
                        const std::string& path, const std::string& place, Reading& reading);

// "a map", "a list", "no value" or the text of a scalar.
std::string kind_of(const YAML::Node& node);

}  // namespace conclave::config
