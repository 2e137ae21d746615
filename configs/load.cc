#include "configs/load.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <vector>

#include "comm/base/error.h"
#include "configs/override.h"
#include "configs/resolve.h"
#include "configs/validate.h"
#include "configs/yaml_reader.h"

namespace conclave::config {

namespace fs = std::filesystem;

namespace {

// The text of a file; a fault is reported at `place`.
std::optional<std::string> read_text(const std::string& path, const std::string& place, Reading& reading) {
  const auto fail = [&](const std::string& reason) {
    const std::string what = place == path ? "cannot be read" : fmt::format("base: cannot read {}", path);
    reading.add_error(place, fmt::format("{}: {}; check the path", what, reason));
    reading.set_incomplete();
    return std::nullopt;
  };
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) return fail("it is a directory");
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file) return fail(std::strerror(errno == 0 ? EIO : errno));
  std::ostringstream text;
  text << file.rdbuf();
  if (file.bad()) return fail(std::strerror(errno == 0 ? EIO : errno));
  return text.str();
}

// The one YAML document in `text`, a map; an empty text is an empty map. `path` names the text in messages.
std::optional<YAML::Node> parse_text(const std::string& text, const std::string& path, Reading& reading) {
  const Origin origin{path};
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(text);
    if (documents.empty() || (documents.size() == 1 && documents[0].IsNull())) {
      return YAML::Node(YAML::NodeType::Map);
    }
    if (documents.size() == 1 && documents[0].IsMap()) return documents[0];
    reading.add_error(
        documents.size() == 1 ? origin.place(documents[0].Mark()) : path,
        documents.size() == 1
            ? fmt::format("found {}; valid: a map of sections such as model: and moe:", kind_of(documents[0]))
            : fmt::format("found {} documents; valid: one, without ---", documents.size()));
  } catch (const YAML::Exception& error) {
    reading.add_error(origin.place(error.mark), fmt::format("not YAML: {}; mend the syntax here", error.msg));
  }
  reading.set_incomplete();
  return std::nullopt;
}

// The first `base` of a file; a second one is reported by read_section as a duplicate. Not node["base"]: on a
// map without the key it would be an invalid node, without a mark.
std::optional<YAML::Node> base_of(const YAML::Node& file) {
  for (const auto& entry : file) {
    if (entry.first.IsScalar() && entry.first.Scalar() == "base") return entry.second;
  }
  return std::nullopt;
}

// Reads the file's base and then the file. `includers` are the files that led here, outermost first.
void read_file(const std::string& path, const std::string& place, std::vector<std::string> includers,
               Reading& reading) {
  const auto is_same_file = [&](const std::string& other) {
    std::error_code ignored;
    return fs::equivalent(path, other, ignored);
  };
  const bool is_cycle = std::any_of(includers.begin(), includers.end(), is_same_file);
  includers.push_back(path);
  if (is_cycle) {
    reading.set_incomplete();
    return reading.add_error(place, fmt::format("base: the files include each other: {}; remove one base",
                                                fmt::join(includers, " -> ")));
  }
  const auto text = read_text(path, place, reading);
  if (!text) return;
  const auto file = parse_text(*text, path, reading);
  if (!file) return;

  const Origin origin{path};
  if (const auto base = base_of(*file)) {
    const std::string base_place = origin.place(base->Mark());
    if (base->IsScalar() && !base->Scalar().empty()) {
      const fs::path base_path = (fs::path(path).parent_path() / base->Scalar()).lexically_normal();
      read_file(base_path.string(), base_place, includers, reading);
    } else {
      reading.add_error(base_place,
                        fmt::format("base: found {}; valid: the path of one YAML file", kind_of(*base)));
      reading.set_incomplete();
    }
  }
  read_section(*file, reading.experiment, "", origin, reading);
}

void check_rules(const std::string& path, Reading& reading) {
  for (const Violation& violation : violations(reading.experiment)) {
    const auto& keys = violation.keys;
    if (std::any_of(keys.begin(), keys.end(), [&](const auto& key) { return reading.is_faulty(key); }))
      continue;
    const std::string place = reading.place_of(keys);
    reading.add_error(place.empty() ? path : place, violation.message);
  }
}

// Applies the overrides, checks the rules, throws what was wrong; else the experiment with
// every `auto` resolved.
Experiment finish(const std::string& path, std::span<const std::string> overrides, Reading& reading) {
  apply_overrides(overrides, reading);
  if (reading.is_complete()) check_rules(path, reading);

  const std::size_t count = reading.errors().size();
  if (count > 0) {
    throw ConfigError(fmt::format("{} {} in the configuration\n{}", count, count == 1 ? "fault" : "faults",
                                  fmt::join(reading.errors(), "\n")));
  }
  resolve(reading.experiment);
  return reading.experiment;
}

}  // namespace

Experiment load_experiment(const std::string& path, std::span<const std::string> overrides) {
  Reading reading;
  read_file(path, path, {}, reading);
  return finish(path, overrides, reading);
}

Experiment parse_experiment(const std::string& yaml, const std::string& name,
                            std::span<const std::string> overrides) {
  Reading reading;
  if (const auto map = parse_text(yaml, name, reading)) {
    const Origin origin{name};
    if (const auto base = base_of(*map)) {
      reading.add_error(origin.place(base->Mark()), "base: only a file can have one; leave the key out");
      reading.set_incomplete();
    }
    read_section(*map, reading.experiment, "", origin, reading);
  }
  return finish(name, overrides, reading);
}

}  // namespace conclave::config
