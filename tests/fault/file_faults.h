// A library that stands between a program and its files and lets chosen calls fail, fall short, or end the
// process: linked into a test, or before any program by LD_PRELOAD.
//
// Faults are a text: CALL:ACTION:PATH[:FIRST[:COUNT]], several separated by ";".
//   CALL    open, write, fsync, rename (renameat2 included), swap (renameat2 alone), mkdir, unlink, or any
//   ACTION  the name of an errno (ENOSPC), short (a write does half of its work), kill (SIGKILL before the
//   call), torn
//           (half of a write, then SIGKILL)
//   PATH    a part of the path that the call is about
//   FIRST   which of the calls of this kind, from 1 (default 1); COUNT: how many from there (default 1)
// A preloaded library takes the text from the environment, CONCLAVE_FILE_FAULTS, and obeys it only on the
// rank that CONCLAVE_FILE_FAULTS_RANK names, or on every rank without it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace conclave::test {

// Replaces the faults and starts to count anew. "" takes them away.
void inject_file_faults(const std::string& faults);
// How often a fault took effect since.
std::int64_t injected_file_faults();

// "write /path", "rename /from /to": the calls under paths with this part, from now on. "" ends it.
void trace_file_calls(const std::string& path_part);
std::vector<std::string> traced_file_calls();

}  // namespace conclave::test
