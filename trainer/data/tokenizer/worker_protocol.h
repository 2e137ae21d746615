// What conclave and conclave-sentencepiece say to each other: a frame, then its payload.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace conclave::data {

enum class WorkerRequest : std::uint64_t {
  kEncode = 1,  // texts (joined) -> int32 ids of each (joined)
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

// Several pieces in one payload: how many (uint64), the bytes of each (uint64), then the pieces in a row.
inline std::string joined(std::span<const std::string_view> pieces) {
  std::string payload;
  const auto append = [&](std::uint64_t number) {
    payload.append(reinterpret_cast<const char*>(&number), sizeof number);
  };
  append(pieces.size());
  for (const std::string_view piece : pieces) append(piece.size());
  for (const std::string_view piece : pieces) payload += piece;
  return payload;
}

// The pieces of such a payload, which they point into.
inline std::vector<std::string_view> pieces_of(std::string_view payload) {
  const auto number = [&](std::size_t index) {
    std::uint64_t value = 0;
    std::memcpy(&value, payload.data() + index * sizeof value, sizeof value);
    return value;
  };
  std::vector<std::string_view> pieces(number(0));
  std::size_t at = (pieces.size() + 1) * sizeof(std::uint64_t);
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    pieces[i] = payload.substr(at, number(i + 1));
    at += pieces[i].size();
  }
  return pieces;
}

}  // namespace conclave::data
