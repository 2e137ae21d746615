#include "optim/freeze.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>

#include "comm/base/error.h"
#include "configs/keys.h"

namespace conclave {
namespace {

struct Pattern {
  std::string_view text;   // as it was given
  std::string_view name;   // without the ids
  std::vector<Range> ids;  // global expert ids; empty for all of a parameter
};

[[noreturn]] void fail(std::string_view pattern, const std::string& what) {
  throw ConfigError(fmt::format("train.freeze: \"{}\" {}", pattern, what));
}

std::int64_t parse_id(std::string_view text, std::string_view pattern) {
  std::int64_t id = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), id);
  if (error != std::errc() || end != text.data() + text.size() || id < 0) {
    fail(pattern, fmt::format("has \"{}\" where an expert's id should stand; valid: ids and ranges of them, "
                              "such as [0-3] or [0,2,5-7]",
                              text));
  }
  return id;
}

Pattern parse(std::string_view text) {
  Pattern pattern{text, text, {}};
  const std::size_t open = text.rfind('[');
  if (open == std::string_view::npos || text.back() != ']') return pattern;
  pattern.name = text.substr(0, open);
  std::string_view rest = text.substr(open + 1, text.size() - open - 2);
  do {
    const std::string_view part = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(rest.size(), part.size() + 1));
    const std::size_t dash = part.find('-');
    const std::int64_t first = parse_id(part.substr(0, dash), text);
    const std::int64_t last = dash == std::string_view::npos ? first : parse_id(part.substr(dash + 1), text);
    if (last < first) fail(text, fmt::format("has the range {}, which runs backwards", part));
    pattern.ids.push_back({first, last + 1});
  } while (!rest.empty());
  return pattern;
}

// The names of `parameters` that come closest to the pattern, best first.
std::vector<std::string> closest_names(std::string_view pattern, const std::vector<Parameter*>& parameters) {
  constexpr std::size_t kSuggestions = 3;
  std::vector<std::pair<std::size_t, std::string>> ranked;
  for (const Parameter* parameter : parameters) {
    ranked.emplace_back(distance_to_match(pattern, parameter->name()), parameter->name());
  }
  std::ranges::stable_sort(ranked, {}, &std::pair<std::size_t, std::string>::first);
  std::vector<std::string> names;
  for (const auto& [distance, name] : ranked) {
    if (names.size() < kSuggestions) names.push_back(name);
  }
  return names;
}

void freeze_matches(const Pattern& pattern, const std::vector<Parameter*>& parameters) {
  bool matches = false;
  std::int64_t most_experts = 0;  // of a matching parameter
  for (Parameter* parameter : parameters) {
    if (distance_to_match(pattern.name, parameter->name()) != 0) continue;
    const std::int64_t rows = parameter->global_shape()[0];
    if (pattern.ids.empty()) {
      matches = true;
      parameter->freeze_rows({0, rows});
    } else if (parameter->sharding() == Sharding::kExpert) {
      matches = true;
      most_experts = std::max(most_experts, rows);
      for (const Range& ids : pattern.ids) parameter->freeze_rows(ids);
    }
  }
  if (!matches) {
    fail(pattern.text,
         fmt::format("matches no parameter{}; did you mean {}?", pattern.ids.empty() ? "" : " of experts",
                     config::one_of(closest_names(pattern.name, parameters))));
  }
  for (const Range& ids : pattern.ids) {
    if (ids.end > most_experts) {
      fail(pattern.text,
           fmt::format("names expert {}, and the experts there are 0 to {}", ids.end - 1, most_experts - 1));
    }
  }
}

std::int64_t trained_elements(const Parameter& parameter) {
  std::int64_t rows = 0;
  for (const Range& range : parameter.trained_global_rows()) rows += range.size();
  return rows * parameter.global_shape().row_elements();
}

}  // namespace

void freeze(std::span<const std::string> patterns, const std::vector<Parameter*>& parameters) {
  for (const std::string& pattern : patterns) freeze_matches(parse(pattern), parameters);
  const bool all_frozen = std::ranges::all_of(
      parameters, [](const Parameter* parameter) { return parameter->trained_global_rows().empty(); });
  if (!patterns.empty() && all_frozen) {
    throw ConfigError(
        "train.freeze: the patterns match every parameter, which leaves nothing to train; take one away");
  }
}

std::int64_t frozen_elements(const std::vector<Parameter*>& parameters) {
  std::int64_t frozen = 0;
  for (const Parameter* parameter : parameters) {
    frozen += parameter->global_shape().elements() - trained_elements(*parameter);
  }
  return frozen;
}

std::size_t distance_to_match(std::string_view pattern, std::string_view name) {
  // row[j]: of the pattern so far and the first j characters of the name.
  std::vector<std::size_t> row(name.size() + 1);
  for (std::size_t j = 0; j <= name.size(); ++j) row[j] = j;
  for (const char symbol : pattern) {
    std::size_t diagonal = row[0];  // of the symbol before and one character less
    row[0] += symbol == '*' ? 0 : 1;
    for (std::size_t j = 1; j <= name.size(); ++j) {
      const std::size_t above = row[j];
      if (symbol == '*') {
        row[j] = std::min(above, row[j - 1]);
      } else {
        const bool fits = symbol == '?' || symbol == name[j - 1];
        row[j] = std::min({diagonal + (fits ? 0 : 1), above + 1, row[j - 1] + 1});
      }
      diagonal = above;
    }
  }
  return row[name.size()];
}

}  // namespace conclave
