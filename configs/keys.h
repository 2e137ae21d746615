// The keys of the schema by their dotted paths, and what the options of run.proto say of each in words.
#pragma once

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <string>
#include <string_view>
#include <vector>

#include "configs/run.pb.h"

namespace conclave::config {

using Field = google::protobuf::FieldDescriptor;
using google::protobuf::Message;

struct Key {
  std::string path;    // "moe.top_k"; "data.train.weight" for a key of each element of a list
  const Field* field;  // lives as long as the program
};

// Every key in the order of the schema: sections before their keys, lists of maps before
// their elements' keys.
std::vector<Key> all_keys();

// The field behind a path, null if there is none. List elements may carry their index: "data.train.0.path".
const Field* find_key(std::string_view path);

// The path without the indices of list elements: "data.train.0.path" -> "data.train.path".
std::string without_indices(std::string_view path);

// "moe" + "top_k" -> "moe.top_k"; an empty parent gives the name alone.
std::string join(std::string_view parent, std::string_view name);

// True for a map of keys, such as `moe`; false for a value or a list.
bool is_section(const Field& field);
// True for a list of maps, such as `data.train`.
bool is_list_of_maps(const Field& field);

// What may stand there: "an integer from 1 to 64", "a number above 0, or dropless",
// "position or probability".
std::string valid_values(const Field& field);
// The default as YAML: "1.25", "auto", "[0.9, 0.95]"; empty for sections and for keys without one.
std::string default_text(const Field& field);
// Names that other frameworks use for this key.
std::vector<std::string> aliases(const Field& field);

// The text for a message: whole, or its beginning and "..." if it is long.
std::string excerpt(std::string_view text);
// "a, b or c".
std::string one_of(const std::vector<std::string>& words);
// The shortest decimal number that reads back as `value`: "0.1", "1e-6".
std::string number_text(double value);
// Seconds in the largest unit that holds them whole: 5400 -> "90m".
std::string duration_text(double seconds);

}  // namespace conclave::config
