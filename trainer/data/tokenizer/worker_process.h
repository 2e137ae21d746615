// A conclave-sentencepiece process: requests to it and its answers. It ends with this object.
#pragma once

#include <string>
#include <string_view>

#include "trainer/data/tokenizer/worker_protocol.h"

namespace conclave::data {

class WorkerProcess {
 public:
  // Starts the program that stands beside this one (or where it was built) with a model, unless it is empty.
  // Throws Error if it can't be started or can't read the model.
  explicit WorkerProcess(const std::string& model);
  ~WorkerProcess();
  WorkerProcess(const WorkerProcess&) = delete;
  WorkerProcess& operator=(const WorkerProcess&) = delete;

  // The payload of the answer. Throws Error with what the process says went wrong, or that it died.
  std::string call(WorkerRequest request, std::string_view payload);
  // What the process says of its model: the vocabulary's size as int32.
  const std::string& greeting() const { return greeting_; }

 private:
  void stop();
  void send(const void* data, std::size_t bytes) const;
  void receive(void* data, std::size_t bytes) const;
  std::string answer();

  int process_ = -1;
  int socket_ = -1;
  std::string greeting_;
};

}  // namespace conclave::data
