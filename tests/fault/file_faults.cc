#include "tests/fault/file_faults.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdarg>
#include <cstdlib>
#include <mutex>
#include <sstream>

namespace conclave::test {
namespace {

struct Fault {
  std::string call;
  std::string action;
  std::string path_part;
  std::int64_t first = 1;
  std::int64_t count = 1;
  std::int64_t seen = 0;
};

struct State {
  std::mutex mutex;
  std::vector<Fault> faults;
  std::int64_t injected = 0;
  std::string traced_part;
  std::vector<std::string> trace;
};

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

std::vector<Fault> parse(const std::string& text) {
  std::vector<Fault> faults;
  for (const std::string& line : split(text, ';')) {
    const std::vector<std::string> words = split(line, ':');
    if (words.size() < 3) {
      fprintf(stderr, "CONCLAVE_FILE_FAULTS: can't read \"%s\"\n", line.c_str());
      abort();
    }
    Fault fault{words[0], words[1], words[2]};
    if (words.size() > 3) fault.first = std::stoll(words[3]);
    if (words.size() > 4) fault.count = std::stoll(words[4]);
    faults.push_back(fault);
  }
  return faults;
}

std::string environment(const char* name) {
  const char* value = getenv(name);
  return value == nullptr ? "" : value;
}

// Never destroyed: files are closed after the last destructor.
State& state() {
  static State& instance = *[] {
    auto* made = new State;
    const std::string rank = environment("CONCLAVE_FILE_FAULTS_RANK");
    if (rank.empty() || rank == environment("OMPI_COMM_WORLD_RANK"))
      made->faults = parse(environment("CONCLAVE_FILE_FAULTS"));
    return made;
  }();
  return instance;
}

int error_number(const std::string& name) {
  for (int number = 1; number < 134; ++number) {
    const char* known = strerrorname_np(number);
    if (known != nullptr && name == known) return number;
  }
  fprintf(stderr, "CONCLAVE_FILE_FAULTS: no errno is named \"%s\"\n", name.c_str());
  abort();
}

// What to do to a call: an errno, or 0 with the action in words, or 0 and "".
struct Decision {
  int error = 0;
  std::string action;
};

Decision decide(const std::string& call, const std::string& path, const std::string& second = "") {
  State& all = state();
  const std::scoped_lock lock(all.mutex);
  if (!all.traced_part.empty() && path.find(all.traced_part) != std::string::npos) {
    all.trace.push_back(call + " " + path + (second.empty() ? "" : " " + second));
  }
  Decision decision;
  for (Fault& fault : all.faults) {
    const bool is_call =
        fault.call == "any" || fault.call == call || (fault.call == "rename" && call == "swap");
    if (!is_call || path.find(fault.path_part) == std::string::npos) continue;
    ++fault.seen;
    if (fault.seen < fault.first || fault.seen >= fault.first + fault.count) continue;
    ++all.injected;
    if (fault.action == "kill") raise(SIGKILL);
    if (fault.action == "short" || fault.action == "torn") {
      decision.action = fault.action;
    } else {
      decision.error = error_number(fault.action);
    }
  }
  return decision;
}

bool fails(const std::string& call, const std::string& path, const std::string& second = "") {
  const Decision decision = decide(call, path, second);
  if (decision.error != 0) errno = decision.error;
  return decision.error != 0;
}

std::string path_of(int descriptor) {
  std::array<char, 4096> target{};
  const std::string link = "/proc/self/fd/" + std::to_string(descriptor);
  const ssize_t length = readlink(link.c_str(), target.data(), target.size());
  return length > 0 ? std::string(target.data(), static_cast<std::size_t>(length)) : "";
}

std::string path_below(int directory, const char* path) {
  return directory == AT_FDCWD || path[0] == '/' ? path : path_of(directory) + "/" + path;
}

template <class Function>
Function* real(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

}  // namespace

void inject_file_faults(const std::string& faults) {
  State& all = state();
  const std::scoped_lock lock(all.mutex);
  all.faults = parse(faults);
  all.injected = 0;
}

std::int64_t injected_file_faults() {
  State& all = state();
  const std::scoped_lock lock(all.mutex);
  return all.injected;
}

void trace_file_calls(const std::string& path_part) {
  State& all = state();
  const std::scoped_lock lock(all.mutex);
  all.traced_part = path_part;
  if (!path_part.empty()) all.trace.clear();
}

std::vector<std::string> traced_file_calls() {
  State& all = state();
  const std::scoped_lock lock(all.mutex);
  return all.trace;
}

}  // namespace conclave::test

using conclave::test::decide;
using conclave::test::fails;
using conclave::test::path_below;
using conclave::test::path_of;
using conclave::test::real;

extern "C" {

int open(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  static auto* const next = real<int(const char*, int, ...)>("open");
  if ((flags & O_ACCMODE) != O_RDONLY && fails("open", path)) return -1;  // reading is left alone
  return next(path, flags, mode);
}

ssize_t write(int descriptor, const void* bytes, size_t count) {
  static auto* const next = real<ssize_t(int, const void*, size_t)>("write");
  const auto decision = decide("write", path_of(descriptor));
  if (decision.error != 0) {
    errno = decision.error;
    return -1;
  }
  if (decision.action.empty()) return next(descriptor, bytes, count);
  const ssize_t written = next(descriptor, bytes, std::max<size_t>(count / 2, 1));
  if (decision.action == "torn") raise(SIGKILL);
  return written;
}

int fsync(int descriptor) {
  static auto* const next = real<int(int)>("fsync");
  return fails("fsync", path_of(descriptor)) ? -1 : next(descriptor);
}

int rename(const char* from, const char* to) noexcept {
  static auto* const next = real<int(const char*, const char*)>("rename");
  return fails("rename", from, to) ? -1 : next(from, to);
}

int renameat2(int from_directory, const char* from, int to_directory, const char* to,
              unsigned flags) noexcept {
  static auto* const next = real<int(int, const char*, int, const char*, unsigned)>("renameat2");
  if (fails("swap", path_below(from_directory, from), path_below(to_directory, to))) return -1;
  return next(from_directory, from, to_directory, to, flags);
}

int mkdir(const char* path, mode_t mode) noexcept {
  static auto* const next = real<int(const char*, mode_t)>("mkdir");
  return fails("mkdir", path) ? -1 : next(path, mode);
}

int unlink(const char* path) noexcept {
  static auto* const next = real<int(const char*)>("unlink");
  return fails("unlink", path) ? -1 : next(path);
}

int unlinkat(int directory, const char* path, int flags) noexcept {
  static auto* const next = real<int(int, const char*, int)>("unlinkat");
  return fails("unlink", path_below(directory, path)) ? -1 : next(directory, path, flags);
}

}  // extern "C"
