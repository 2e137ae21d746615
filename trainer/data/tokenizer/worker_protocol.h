// What conclave and conclave-sentencepiece say to each other: a frame, then its payload.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace conclave::data {

enum class WorkerRequest : std::uint64_t {
  kEncode = 1,  // text -> int32 ids
  kDecode,      // int32 ids -> text
  kToken,       // int32 id -> the token as the model writes it; of a byte (<0xE2>) that byte
  kId,          // a token -> int32 id, or -1
  kTrain,       // arguments of the library's trainer -> nothing
  kGood,        // an answer: what was asked for
  kFailed       // an answer: why not
};

struct WorkerFrame {
  WorkerRequest request = WorkerRequest::kFailed;
  std::uint64_t bytes = 0;
};

// The first space from `from` on that stands alone between two letters of ASCII; text.size() if there is
// none. Where the words of a model stand apart, the ids of a text are those of what comes before it and of
// what comes after it.
inline std::size_t single_space(std::string_view text, std::size_t from) {
  const auto is_letter = [](char c) { return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'); };
  for (std::size_t at = std::max<std::size_t>(from, 1); at + 1 < text.size(); ++at) {
    if (text[at] == ' ' && is_letter(text[at - 1]) && is_letter(text[at + 1])) return at;
  }
  return text.size();
}

}  // namespace conclave::data
