// What conclave and conclave-sentencepiece say to each other: a frame, then its payload.
#pragma once

#include <cstdint>

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

}  // namespace conclave::data
