// conclave-sentencepiece: the SentencePiece library in a process of its own. Debian's build of the library
// exports the symbols of another version of Protocol Buffers than the one that conclave is linked with, and
// two versions in one process break each other.
//
//   conclave-sentencepiece [MODEL]     answers the requests of worker_process.h on its standard input
#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>
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

std::string token_of(const sentencepiece::SentencePieceProcessor& processor, int id) {
  const std::string& token = processor.IdToPiece(id);
  if (!processor.IsByte(id)) return token;
  return {static_cast<char>(std::stoi(token.substr(3, 2), nullptr, 16))};  // "<0xE2>"
}

bool serve(const sentencepiece::SentencePieceProcessor& processor, WorkerRequest request,
           const std::string& payload) {
  switch (request) {
    case WorkerRequest::kEncode: {
      std::vector<int> ids;
      const auto status = processor.Encode(payload, &ids);
      return answer(status, bytes_of(ids));
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
  sentencepiece::SentencePieceProcessor processor;
  if (argc > 1) {
    const auto status = processor.Load(argv[1]);
    const std::string size = status.ok() ? bytes_of(std::vector<int>{processor.GetPieceSize()}) : "";
    if (!answer(status, size) || !status.ok()) return 1;
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
