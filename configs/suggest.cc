#include "configs/suggest.h"

#include <algorithm>

#include "configs/keys.h"

namespace conclave::config {

namespace {

std::string last_part(const std::string& path) { return path.substr(path.rfind('.') + 1); }
std::string parent(const std::string& path) {
  const std::size_t dot = path.rfind('.');
  return dot == std::string::npos ? "" : path.substr(0, dot);
}

// The list of maps that `path` lies in, "data.train" for "data.train.path"; "" if in none.
std::string enclosing_list(std::string path) {
  while (!(path = parent(path)).empty()) {
    const Field* field = find_key(path);
    if (field != nullptr && is_list_of_maps(*field)) return path;
  }
  return "";
}

}  // namespace

std::size_t edit_distance(std::string_view from, std::string_view to) {
  // distance[i][j]: of the first i letters of `from` and the first j of `to`.
  std::vector<std::vector<std::size_t>> distance(from.size() + 1, std::vector<std::size_t>(to.size() + 1));
  for (std::size_t i = 0; i <= from.size(); ++i) distance[i][0] = i;
  for (std::size_t j = 0; j <= to.size(); ++j) distance[0][j] = j;
  for (std::size_t i = 1; i <= from.size(); ++i) {
    for (std::size_t j = 1; j <= to.size(); ++j) {
      const std::size_t replaced = distance[i - 1][j - 1] + (from[i - 1] == to[j - 1] ? 0 : 1);
      distance[i][j] = std::min({replaced, distance[i - 1][j] + 1, distance[i][j - 1] + 1});
      const bool swapped = i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1];
      if (swapped) distance[i][j] = std::min(distance[i][j], distance[i - 2][j - 2] + 1);
    }
  }
  return distance[from.size()][to.size()];
}

std::optional<std::string> nearest(std::string_view word, const std::vector<std::string>& candidates) {
  std::optional<std::string> best;
  std::size_t best_distance = std::max<std::size_t>(1, word.size() / 3);
  for (const std::string& candidate : candidates) {
    // The distance is at least the difference in length.
    if (word.size() > candidate.size() + best_distance) continue;
    const std::size_t distance = edit_distance(word, candidate);
    const bool nothing_in_common = distance >= std::max(word.size(), candidate.size());
    if (nothing_in_common || distance > best_distance || (best && distance == best_distance)) continue;
    best = candidate;
    best_distance = distance;
  }
  return best;
}

std::vector<std::string> suggest_keys(std::string_view section, std::string_view word) {
  std::vector<Key> keys = all_keys();
  // What is said of one element of a list is meant there only.
  std::erase_if(keys, [&](const Key& key) {
    const std::string list = enclosing_list(key.path);
    return !list.empty() && section != list && !section.starts_with(list + ".");
  });

  std::vector<std::string> exact;
  for (const Key& key : keys) {
    const std::vector<std::string> names = aliases(*key.field);
    if (std::find(names.begin(), names.end(), word) != names.end()) exact.push_back(key.path);
  }
  if (!exact.empty()) return exact;
  for (const Key& key : keys) {
    if (last_part(key.path) == word || key.path == word) exact.push_back(key.path);
  }
  if (!exact.empty()) return exact;

  std::vector<std::string> siblings;
  for (const Key& key : keys) {
    if (parent(key.path) == section) siblings.push_back(last_part(key.path));
  }
  if (const auto near = nearest(word, siblings)) return {join(section, *near)};

  std::vector<std::string> names;
  for (const Key& key : keys) {
    names.push_back(last_part(key.path));
    for (const std::string& name : aliases(*key.field)) names.push_back(name);
  }
  const auto near = nearest(word, names);
  return near ? suggest_keys(section, *near) : std::vector<std::string>{};
}

}  // namespace conclave::config
