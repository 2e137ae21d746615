// Did you mean: from a word that is no key to the keys that its writer may have meant.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace conclave::config {

// The fewest insertions, deletions, replacements and swaps of neighbours that turn `from` into `to`
// (Damerau-Levenshtein, each stretch edited once).
std::size_t edit_distance(std::string_view from, std::string_view to);

// The candidate nearest to `word`, if it is near enough to be a slip of the pen: at most a third of the
// word's letters, and one at least, differ.
std::optional<std::string> nearest(std::string_view word, const std::vector<std::string>& candidates);

// Full paths ("model.d_model") of the keys that may be meant by the unknown `word`, which
// stood in the section at `section` ("" is the top level). In this order of trust: a name
// that another framework uses, the same name in another section, a slip within this section,
// a slip within another one. Empty if nothing is near.
std::vector<std::string> suggest_keys(std::string_view section, std::string_view word);

}  // namespace conclave::config
