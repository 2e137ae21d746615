// `conclave config`: look at a configuration without running it.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace conclave {

// Adds the subcommand tree `config show | explain | diff | schema` to `app`. Parsing one of them sets
// `selected` to its action, which prints to stdout, returns the exit code (diff: 1 if the files differ) and
// throws ConfigError for a file that can't be loaded. `selected` must outlive `app`'s parsing.
void add_config_command(CLI::App& app, std::function<int()>& selected);

}  // namespace conclave
