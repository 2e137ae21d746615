// An experiment and its schema in words: for people, editors, run directories and checkpoints.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "configs/run.pb.h"

namespace conclave::config {

// Every key with its value, defaults included, in the order of the schema. load_experiment reads the same
// experiment back, to the last bit.
std::string to_yaml(const Experiment& experiment);

// What a key ("moe.top_k") is for, its valid values, default and names elsewhere; for a section ("moe") one
// line a key; for "" the sections. Throws ConfigError with a suggestion for an unknown key.
std::string explain(std::string_view key);

// The schema as JSON Schema, draft-07, so that editors complete and check a YAML file while it is written.
std::string json_schema();

struct Difference {
  std::string key;  // "optim.lr", "data.train.1.path"
  std::string a;    // the values as YAML; "(none)" for what only the other one gives
  std::string b;
  bool changes_results;  // false: a resumed run may change the key freely
};

// The keys whose values differ, in the order of the schema. A default and the same value
// given count as equal.
std::vector<Difference> differences(const Experiment& a, const Experiment& b);

}  // namespace conclave::config
