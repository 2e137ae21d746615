// `conclave bench`.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace conclave {

// Registers the subcommand; parsing it sets `selected` to the action that returns the exit code.
void add_bench_command(CLI::App& app, std::function<int()>& selected);

}  // namespace conclave
