// The value of a key as YAML.
#pragma once

#include <string>

#include "configs/keys.h"

namespace conclave::config {

// A value or a list of values of `message`, defaults included: "1e-6", "auto", "90m", "[0.9, 0.95]". Text is
// quoted where YAML readers might take it for something else. `field` is no map.
std::string value_text(const Message& message, const Field& field);

}  // namespace conclave::config
