// conclave verify-layout CONFIG: does the experiment compute the same on every layout?
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace conclave {

// Adds the command; where it is given, `selected` becomes what runs it and returns the exit code.
void add_verify_layout_command(CLI::App& app, std::function<int()>& selected);

}  // namespace conclave
