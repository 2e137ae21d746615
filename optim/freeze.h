// Parameters that are left out of training (train.freeze).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "layers/parameter.h"

namespace conclave {

// Freezes the parameters whose names match one of `patterns`: `*` stands for any text, `?` for one character.
// A pattern may end in global expert ids, "layers.*.moe.experts.*[0-3,7]": then it freezes those experts
// only, and matches only parameters of experts (Sharding::kExpert). A replicated parameter is frozen as a
// whole.
//
// Throws ConfigError, the same on every rank, for ids that are malformed or that no matching parameter has,
// for a pattern that matches nothing (with the names closest to it), and if nothing is left to train.
void freeze(std::span<const std::string> patterns, const std::vector<Parameter*>& parameters);

// Elements of all parameters that are frozen, every expert once.
std::int64_t frozen_elements(const std::vector<Parameter*>& parameters);

// The fewest insertions, deletions and replacements that turn `pattern`, with its wildcards filled in as it
// suits best, into `name`; 0 where it matches.
std::size_t distance_to_match(std::string_view pattern, std::string_view name);

}  // namespace conclave
