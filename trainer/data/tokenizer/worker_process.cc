#include "trainer/data/tokenizer/worker_process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "comm/base/error.h"

extern char** environ;

namespace conclave::data {
namespace {

constexpr const char* kProgram = "conclave-sentencepiece";

std::string program_path() {
  std::error_code error;
  const auto beside = std::filesystem::read_symlink("/proc/self/exe", error).parent_path() / kProgram;
  return std::filesystem::exists(beside, error) ? beside.string() : CONCLAVE_SENTENCEPIECE_PROGRAM;
}

}  // namespace

WorkerProcess::WorkerProcess(const std::string& model) {
  std::array<int, 2> ends{};
  CONCLAVE_CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) == 0,
                 "no socket for {}: {}", kProgram, std::strerror(errno));
  socket_ = ends[0];
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  std::string path = program_path();
  std::string argument = model;
  std::array<char*, 3> arguments{path.data(), model.empty() ? nullptr : argument.data(), nullptr};
  // It inherits the mask of blocked stop signals: Ctrl-C is for the run, whose end closes the worker's input.
  const int failure = ::posix_spawn(&process_, path.c_str(), &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  ::close(ends[1]);
  if (failure != 0) {
    ::close(socket_);
    throw Error(fmt::format("{} can't be started: {}; the build puts it beside conclave", path,
                            std::strerror(failure)));
  }
  if (model.empty()) return;
  try {
    greeting_ = answer();
  } catch (...) {
    stop();
    throw;
  }
}

WorkerProcess::~WorkerProcess() { stop(); }

// Its input ends, and so does it.
void WorkerProcess::stop() {
  ::close(socket_);
  int status = 0;
  while (::waitpid(process_, &status, 0) < 0 && errno == EINTR) {
  }
}

std::string WorkerProcess::call(WorkerRequest request, std::string_view payload) {
  const WorkerFrame frame{request, payload.size()};
  send(&frame, sizeof frame);
  send(payload.data(), payload.size());
  return answer();
}

std::string WorkerProcess::answer() {
  WorkerFrame frame;
  receive(&frame, sizeof frame);
  std::string payload(frame.bytes, '\0');
  receive(payload.data(), payload.size());
  if (frame.request != WorkerRequest::kGood) throw Error(payload);
  return payload;
}

void WorkerProcess::send(const void* data, std::size_t bytes) const {
  const auto* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t sent = ::send(socket_, next, bytes, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    CONCLAVE_CHECK(sent > 0, "{} has died", kProgram);
    next += sent;
    bytes -= static_cast<std::size_t>(sent);
  }
}

void WorkerProcess::receive(void* data, std::size_t bytes) const {
  auto* next = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t got = ::recv(socket_, next, bytes, 0);
    if (got < 0 && errno == EINTR) continue;
    CONCLAVE_CHECK(got > 0, "{} has died", kProgram);
    next += got;
    bytes -= static_cast<std::size_t>(got);
  }
}

}  // namespace conclave::data
