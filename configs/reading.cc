#include "configs/reading.h"

#include <fmt/format.h>

#include <algorithm>

namespace conclave::config {

namespace {

bool is_inside(const std::string& key, const std::string& section) { return key.starts_with(section + "."); }

}  // namespace

void Reading::add_error(const std::string& place, const std::string& message) {
  errors_.push_back(fmt::format("{}: {}", place, message));
}

void Reading::add_error(const std::string& place, const std::string& key, const std::string& message) {
  mark_faulty(key);
  add_error(place, message);
}

bool Reading::is_faulty(const std::string& key) const {
  return std::any_of(faulty_keys_.begin(), faulty_keys_.end(), [&](const std::string& faulty) {
    return faulty == key || is_inside(key, faulty) || is_inside(faulty, key);
  });
}

void Reading::remember_place(const std::string& key, const std::string& place) {
  places_[key] = {place, places_remembered_++};
}

void Reading::forget_places_below(const std::string& key) {
  std::erase_if(places_, [&](const auto& entry) { return is_inside(entry.first, key); });
}

std::string Reading::place_of(const std::vector<std::string>& keys) const {
  const Place* last = nullptr;
  for (const std::string& key : keys) {
    const auto found = places_.find(key);
    if (found != places_.end() && (last == nullptr || found->second.order > last->order))
      last = &found->second;
  }
  if (last != nullptr) return last->text;

  std::string section = keys.empty() ? "" : keys.front();
  while (section.find('.') != std::string::npos) {
    section.erase(section.rfind('.'));
    if (const auto found = places_.find(section); found != places_.end()) return found->second.text;
  }
  return "";
}

}  // namespace conclave::config
