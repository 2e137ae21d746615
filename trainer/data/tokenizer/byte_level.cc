#include "trainer/data/tokenizer/byte_level.h"

#include <array>
#include <unordered_map>

#include "trainer/data/tokenizer/utf8.h"

namespace conclave::data {
namespace {

bool stands_for_itself(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || (byte >= 0xAE && byte <= 0xFF);
}

struct Table {
  std::array<std::string, 256> characters;
  std::unordered_map<char32_t, char> bytes;

  Table() {
    char32_t next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      const char32_t code = stands_for_itself(byte) ? static_cast<char32_t>(byte) : next++;
      append_utf8(characters[static_cast<std::size_t>(byte)], code);
      bytes[code] = static_cast<char>(byte);
    }
  }
};

const Table& table() {
  static const Table built;
  return built;
}

}  // namespace

const std::string& byte_level_character(std::uint8_t byte) { return table().characters[byte]; }

std::optional<std::string> bytes_of_byte_level(std::string_view token) {
  std::string bytes;
  while (!token.empty()) {
    const Character character = first_character(token);
    const auto found = table().bytes.find(character.code);
    if (!character.valid || found == table().bytes.end()) return std::nullopt;
    bytes.push_back(found->second);
    token.remove_prefix(character.bytes);
  }
  return bytes;
}

}  // namespace conclave::data
