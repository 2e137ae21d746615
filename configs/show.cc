#include "configs/show.h"

#include <fmt/format.h>

#include <algorithm>

#include "comm/base/error.h"
#include "configs/keys.h"
#include "configs/suggest.h"
#include "configs/value_text.h"

namespace conclave::config {

namespace {

const char* const kNone = "(none)";

// True for a key without a default that isn't given (what an element of moe.layers doesn't change), or an
// empty list that needs elements.
bool is_left_open(const Message& section, const Field& field) {
  const auto& reflection = *section.GetReflection();
  if (field.is_repeated()) return reflection.FieldSize(section, &field) == 0 && default_text(field).empty();
  return !is_section(field) && !field.has_default_value() && !reflection.HasField(section, &field);
}

std::string value_or_none(const Message& section, const Field& field) {
  return is_left_open(section, field) ? kNone : value_text(section, field);
}

// The lines of a section, each led by `indent`.
std::string section_yaml(const Message& section, const std::string& indent) {
  const auto& reflection = *section.GetReflection();
  std::string yaml;
  for (int i = 0; i < section.GetDescriptor()->field_count(); ++i) {
    const Field& field = *section.GetDescriptor()->field(i);
    if (is_left_open(section, field)) continue;
    if (is_section(field)) {
      yaml += fmt::format("{}{}:\n", indent, field.name());
      yaml += section_yaml(reflection.GetMessage(section, &field), indent + "  ");
    } else if (is_list_of_maps(field)) {
      const int size = reflection.FieldSize(section, &field);
      yaml += fmt::format("{}{}:{}\n", indent, field.name(), size == 0 ? " []" : "");
      for (int element = 0; element < size; ++element) {
        std::string lines =
            section_yaml(reflection.GetRepeatedMessage(section, &field, element), indent + "    ");
        lines[indent.size() + 2] = '-';
        yaml += lines;
      }
    } else {
      yaml += fmt::format("{}{}: {}\n", indent, field.name(), value_text(section, field));
    }
  }
  return yaml;
}

void add_differences(const Message& a, const Message& b, const std::string& path,
                     std::vector<Difference>& found) {
  const auto& reflection = *a.GetReflection();
  for (int i = 0; i < a.GetDescriptor()->field_count(); ++i) {
    const Field& field = *a.GetDescriptor()->field(i);
    const std::string key = join(path, field.name());
    if (is_section(field)) {
      add_differences(reflection.GetMessage(a, &field), reflection.GetMessage(b, &field), key, found);
    } else if (is_list_of_maps(field)) {
      const int size_a = reflection.FieldSize(a, &field);
      const int size_b = reflection.FieldSize(b, &field);
      for (int element = 0; element < std::min(size_a, size_b); ++element) {
        add_differences(reflection.GetRepeatedMessage(a, &field, element),
                        reflection.GetRepeatedMessage(b, &field, element), join(key, std::to_string(element)),
                        found);
      }
      for (int element = std::min(size_a, size_b); element < std::max(size_a, size_b); ++element) {
        const bool only_in_a = element < size_a;
        const Message& extra = reflection.GetRepeatedMessage(only_in_a ? a : b, &field, element);
        for (int j = 0; j < extra.GetDescriptor()->field_count(); ++j) {
          const Field& inner = *extra.GetDescriptor()->field(j);
          if (is_left_open(extra, inner)) continue;
          const std::string value = value_text(extra, inner);
          found.push_back({join(join(key, std::to_string(element)), inner.name()), only_in_a ? value : kNone,
                           only_in_a ? kNone : value, inner.options().GetExtension(changes_results)});
        }
      }
    } else {
      const std::string value_a = value_or_none(a, field);
      const std::string value_b = value_or_none(b, field);
      if (value_a != value_b) {
        found.push_back({key, value_a, value_b, field.options().GetExtension(changes_results)});
      }
    }
  }
}

// Words set in lines of at most 88 letters, each led by `indent`.
std::string wrapped(std::string_view text, std::string_view indent) {
  constexpr std::size_t kWidth = 88;
  std::string lines;
  while (!text.empty()) {
    std::size_t length = text.size();
    if (length > kWidth) {
      const std::size_t space = text.rfind(' ', kWidth);
      length = space == std::string_view::npos ? kWidth : space;
    }
    lines += fmt::format("{}{}\n", indent, text.substr(0, length));
    text.remove_prefix(std::min(text.size(), length + 1));
  }
  return lines;
}

std::string explain_key(const std::string& path, const Field& field) {
  const auto& options = field.options();
  std::string text = path + "\n" + wrapped(options.GetExtension(doc), "  ");
  text += fmt::format("  valid:    {}\n", valid_values(field));
  if (const std::string value = default_text(field); !value.empty()) {
    text += fmt::format("  default:  {}\n", value);
  }
  text += fmt::format("  resume:   {}\n", options.GetExtension(changes_results)
                                              ? "changes results; needs checkpoint.allow_changes"
                                              : "may be changed freely");
  if (const auto names = aliases(field); !names.empty()) {
    text += fmt::format("  known as: {}\n", fmt::join(names, ", "));
  }
  return text;
}

// Section `path` ("" is the whole schema): what it is for, then one line for each key directly inside of it.
std::string explain_section(const std::string& path, const std::string& about,
                            const google::protobuf::Descriptor& section) {
  std::string text = path.empty() ? "" : fmt::format("{}\n{}\n", path, wrapped(about, "  "));
  for (int i = 0; i < section.field_count(); ++i) {
    const Field& field = *section.field(i);
    const std::string value = default_text(field);
    text += fmt::format("  {:<28}{}{}\n", join(path, field.name()), field.options().GetExtension(doc),
                        value.empty() ? "" : fmt::format(" [{}]", value));
  }
  return text;
}

}  // namespace

std::string to_yaml(const Experiment& experiment) { return section_yaml(experiment, ""); }

std::string explain(std::string_view key) {
  const std::string path(key);
  if (path.empty()) return explain_section("", "", *Experiment::descriptor());
  if (path == "base") {
    return "base\n  Another YAML file, relative to this one, that is read first; what stands here wins key "
           "by key.\n"
           "  valid:    the path of one file\n";
  }
  const Field* field = find_key(path);
  if (field == nullptr) {
    const std::size_t dot = path.rfind('.');
    const std::string section = dot == std::string::npos ? "" : path.substr(0, dot);
    const auto meant = suggest_keys(section, dot == std::string::npos ? path : path.substr(dot + 1));
    throw ConfigError(fmt::format("{}: unknown key; {}", path,
                                  meant.empty() ? "conclave config explain lists all of them"
                                                : fmt::format("did you mean {}?", one_of(meant))));
  }
  if (field->message_type() == nullptr) return explain_key(path, *field);
  return explain_section(path, field->options().GetExtension(doc), *field->message_type());
}

std::vector<Difference> differences(const Experiment& a, const Experiment& b) {
  std::vector<Difference> found;
  add_differences(a, b, "", found);
  return found;
}

}  // namespace conclave::config
