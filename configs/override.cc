#include "configs/override.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <string_view>

#include "configs/yaml_reader.h"

namespace conclave::config {

namespace {

const char* const kPlace = "command line";

// Reports an index that isn't one of `size` elements; otherwise returns it.
std::optional<int> element_index(std::string_view text, int size, const std::string& list, Reading& reading) {
  int index = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), index);
  if (error == std::errc() && end == text.data() + text.size() && index >= 0 && index < size) return index;
  const std::string valid = size == 0   ? "the list is empty; give all of it"
                            : size == 1 ? "valid: 0"
                                        : fmt::format("valid: 0 to {}", size - 1);
  reading.add_error(kPlace, list, fmt::format("{}: found element \"{}\"; {}", list, text, valid));
  return std::nullopt;
}

// Walks down the path from `message`, then reads `value` into the field at its end.
void apply(const std::string& path, const YAML::Node& value, Reading& reading) {
  const Origin origin{kPlace, false};
  Message* message = &reading.experiment;
  std::string walked;
  std::string_view rest = path;
  while (true) {
    const std::string name(rest.substr(0, rest.find('.')));
    rest.remove_prefix(std::min(rest.size(), name.size() + 1));
    const Field* field = message->GetDescriptor()->FindFieldByName(name);
    if (field == nullptr) return report_unknown_key(name, *message->GetDescriptor(), walked, kPlace, reading);
    walked = join(walked, name);
    if (rest.empty()) return read_value(value, *field, *message, walked, kPlace, origin, reading);

    const auto& reflection = *message->GetReflection();
    if (is_section(*field)) {
      message = reflection.MutableMessage(message, field);
    } else if (is_list_of_maps(*field)) {
      const std::string index_text(rest.substr(0, rest.find('.')));
      const auto index = element_index(index_text, reflection.FieldSize(*message, field), walked, reading);
      if (!index) return;
      message = reflection.MutableRepeatedMessage(message, field, *index);
      walked = join(walked, index_text);
      rest.remove_prefix(std::min(rest.size(), index_text.size() + 1));
      if (rest.empty()) {
        if (value.IsMap()) return read_section(value, *message, walked, origin, reading);
        return reading.add_error(kPlace, walked,
                                 fmt::format("{}: found {}; valid: a map", walked, kind_of(value)));
      }
    } else {
      return reading.add_error(
          kPlace, walked,
          fmt::format("{}: {} is a value, not a section; valid: {}", path, walked, valid_values(*field)));
    }
  }
}

}  // namespace

void apply_overrides(std::span<const std::string> overrides, Reading& reading) {
  std::map<std::string, std::string> seen;
  for (const std::string& text : overrides) {
    const std::size_t equals = text.find('=');
    if (equals == std::string::npos || equals == 0) {
      reading.add_error(kPlace, fmt::format("{}: not of the form key=value, such as moe.top_k=2", text));
      continue;
    }
    const std::string path = text.substr(0, equals);
    if (path == "base") {
      reading.add_error(kPlace, "base: can only be given in a file; name the file to start from instead");
      continue;
    }
    if (const auto [first, is_new] = seen.emplace(path, text); !is_new) {
      reading.add_error(kPlace, path,
                        fmt::format("{}: given twice, as {} and {}; keep one", path, first->second, text));
      continue;
    }
    try {
      apply(path, YAML::Load(text.substr(equals + 1)), reading);
    } catch (const YAML::Exception& error) {
      reading.add_error(kPlace, path,
                        fmt::format("{}: the value is not YAML: {}; quote it", text, error.msg));
    }
  }
}

}  // namespace conclave::config
