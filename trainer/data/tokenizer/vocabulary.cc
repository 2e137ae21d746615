#include "trainer/data/tokenizer/vocabulary.h"

#include <algorithm>
#include <array>

namespace conclave::data {

bool Vocabulary::is_added(std::int32_t id) const {
  return std::ranges::find(added, id, &AddedToken::id) != added.end();
}

std::int64_t Vocabulary::id_of(std::string_view token) const {
  const auto found = std::ranges::find(added, token, &AddedToken::text);
  return found != added.end() ? found->id : id(std::string(token));
}

void Vocabulary::split(std::string_view text, const std::function<void(std::string_view)>& segment,
                       const std::function<void(std::int32_t)>& found) const {
  // Only a byte that begins one is looked at closely.
  std::array<bool, 256> begins_one{};
  for (const AddedToken& token : added) begins_one[static_cast<std::uint8_t>(token.text[0])] = true;
  std::size_t begin = 0;
  for (std::size_t at = 0; at < text.size();) {
    const AddedToken* longest = nullptr;
    if (begins_one[static_cast<std::uint8_t>(text[at])]) {
      for (const AddedToken& token : added) {
        const bool is_here = text.substr(at).starts_with(token.text);
        if (is_here && (longest == nullptr || token.text.size() > longest->text.size())) longest = &token;
      }
    }
    if (longest == nullptr) {
      ++at;
      continue;
    }
    if (at > begin) segment(text.substr(begin, at - begin));
    found(longest->id);
    begin = at += longest->text.size();
  }
  if (begin < text.size()) segment(text.substr(begin));
}

}  // namespace conclave::data
