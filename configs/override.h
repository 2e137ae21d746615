// `key.path=value` from the command line: the value is YAML and is checked like one from a file.
#pragma once

#include <span>
#include <string>

#include "configs/reading.h"

namespace conclave::config {

// Applies each override to reading.experiment in order; faults are reported at "command line". A path may
// name a section (moe={experts: 8}, merged key by key), a value (moe.top_k=2), a list (replaced) or an
// element of one (data.train.0.path=other.txt).
void apply_overrides(std::span<const std::string> overrides, Reading& reading);

}  // namespace conclave::config
