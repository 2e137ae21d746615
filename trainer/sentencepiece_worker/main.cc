// conclave-sentencepiece: the SentencePiece library in a process of its own. Debian's build of the library
// exports the symbols of another version of Protocol Buffers than the one that conclave is linked with, and
// two versions in one process break each other.
//
//   conclave-sentencepiece [MODEL]
//
// answers the requests of worker_protocol.h on its standard input. It says first how many pieces the model
// has, and 1 if the ids of a text are those of its words.
#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "trainer/data/tokenizer/worker_protocol.h"

namespace conclave::data {
namespace {

bool read_all(void* data, std::size_t bytes) {
  auto* next = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t got = ::read(STDIN_FILENO, next, bytes);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    next += got;
    bytes -= static_cast<std::size_t>(got);
  }
  return true;
}

bool write_all(const void* data, std::size_t bytes) {
  const auto* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t done = ::write(STDOUT_FILENO, next, bytes);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return false;
    next += done;
    bytes -= static_cast<std::size_t>(done);
  }
  return true;
}

bool answer(const sentencepiece::util::Status& status, const std::string& result) {
  const std::string payload = status.ok() ? result : status.ToString();
  const WorkerFrame frame{status.ok() ? WorkerRequest::kGood : WorkerRequest::kFailed, payload.size()};
  return write_all(&frame, sizeof frame) && write_all(payload.data(), payload.size());
}

template <class T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

using Processor = sentencepiece::SentencePieceProcessor;

std::vector<int> ids_of(const Processor& processor, std::string_view text) {
  std::vector<int> ids;
  processor.Encode({text.data(), text.size()}, &ids).IgnoreError();
  return ids;
}

// True for BPE models whose pieces never join words, and that write a word at the beginning of a text as they
// write it after a space: then the ids of a text are those of its words, one after the other. (Unigram models
// add up scores over a text, whose rounding may decide between equal ways.)
bool words_stand_apart(const Processor& processor) {
  constexpr std::string_view kSpace = "\u2581";
  for (int id = 0; id < processor.GetPieceSize(); ++id) {
    if (processor.IsControl(id) || processor.IsUnknown(id) || processor.IsByte(id) || processor.IsUnused(id))
      continue;
    std::string_view piece = processor.IdToPiece(id);
    while (piece.starts_with(kSpace)) piece.remove_prefix(kSpace.size());
    const float score = processor.GetScore(id);
    if (piece.find(kSpace) != std::string_view::npos || score != std::floor(score)) return false;
  }
  std::vector<int> one_by_one = ids_of(processor, "alpha");
  for (const int id : ids_of(processor, "beta")) one_by_one.push_back(id);
  return ids_of(processor, "alpha beta") == one_by_one;
}

std::string token_of(const Processor& processor, int id) {
  const std::string& token = processor.IdToPiece(id);
  if (!processor.IsByte(id)) return token;
  return {static_cast<char>(std::stoi(token.substr(3, 2), nullptr, 16))};  // "<0xE2>"
}

bool serve(const Processor& processor, WorkerRequest request, const std::string& payload) {
  switch (request) {
    case WorkerRequest::kEncode: {
      const std::vector<std::string_view> texts = pieces_of(payload);
      std::vector<std::vector<int>> ids(texts.size());
      std::vector<std::string_view> results(texts.size());
      for (std::size_t i = 0; i < texts.size(); ++i) {
        const auto status = processor.Encode({texts[i].data(), texts[i].size()}, &ids[i]);
        if (!status.ok()) return answer(status, "");
        results[i] = {reinterpret_cast<const char*>(ids[i].data()), ids[i].size() * sizeof(int)};
      }
      return answer({}, joined(results));
    }
    case WorkerRequest::kDecode: {
      std::vector<int> ids(payload.size() / sizeof(int));
      if (!ids.empty()) std::memcpy(ids.data(), payload.data(), payload.size());
      std::string text;
      const auto status = processor.Decode(ids, &text);
      return answer(status, text);
    }
    case WorkerRequest::kToken: {
      int id = 0;
      if (payload.size() == sizeof id) std::memcpy(&id, payload.data(), sizeof id);
      return answer({}, token_of(processor, id));
    }
    case WorkerRequest::kId: {
      const int id = processor.PieceToId(payload);
      return answer({}, bytes_of(std::vector<int>{processor.IsUnknown(id) ? -1 : id}));
    }
    case WorkerRequest::kTrain:
      return answer(sentencepiece::SentencePieceTrainer::Train(payload), "");
    default:
      return false;
  }
}

int run(int argc, char** argv) {
  Processor processor;
  if (argc > 1) {
    const auto status = processor.Load(argv[1]);
    const std::string greeting =
        status.ok()
            ? bytes_of(std::vector<int>{processor.GetPieceSize(), words_stand_apart(processor) ? 1 : 0})
            : "";
    if (!answer(status, greeting) || !status.ok()) return 1;
  }
  WorkerFrame frame;
  while (read_all(&frame, sizeof frame)) {
    std::string payload(frame.bytes, '\0');
    if (!read_all(payload.data(), payload.size())) return 1;
    if (!serve(processor, frame.request, payload)) return 1;
  }
  return 0;
}

}  // namespace
}  // namespace conclave::data

int main(int argc, char** argv) { return conclave::data::run(argc, argv); }
