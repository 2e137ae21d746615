#include "trainer/data/nanogpt_source.h"

#include <algorithm>
#include <utility>

#include "comm/base/error.h"

namespace conclave::data {
namespace {

// True if the first bytes hold no control character but white space. Ids of real tokens soon do: each id
// below 256 has a zero byte.
bool looks_like_text(const MappedFile& file) {
  constexpr std::size_t kExaminedBytes = 4096;
  const auto head = file.bytes().first(std::min(file.bytes().size(), kExaminedBytes));
  return std::all_of(head.begin(), head.end(), [](std::byte value) {
    const auto code = std::to_integer<unsigned>(value);
    return code >= ' ' || (code >= '\t' && code <= '\r');
  });
}

}  // namespace

TokenSource nanogpt_source(MappedFile file) {
  constexpr std::int64_t kMinTextBytes = 64;  // too few bytes prove nothing
  CONCLAVE_CHECK(
      file.size_bytes() < kMinTextBytes || !looks_like_text(file),
      "{}: looks like text, not like token ids; set data.tokenizer: bytes to train on its bytes, or "
      "give the tokenized file",
      file.path());
  CONCLAVE_CHECK(
      file.size_bytes() % 2 == 0,
      "{}: {} bytes are no whole number of uint16 ids, as a file without header must hold (nanoGPT); "
      "is it cut short? Write or copy it again",
      file.path(), file.size_bytes());
  const std::int64_t tokens = file.size_bytes() / 2;
  return TokenSource(std::move(file), "nanoGPT (uint16)", TokenType::kUInt16, {TokenSource::Run{}}, tokens);
}

}  // namespace conclave::data
