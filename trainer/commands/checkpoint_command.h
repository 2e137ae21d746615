// `conclave checkpoint inspect PATH`: what a checkpoint holds.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <functional>
#include <string>

namespace conclave {

// Registers the subcommand. When the user calls it, `selected` becomes the action to run;
// it returns the exit code.
void add_checkpoint_command(CLI::App& app, std::function<int()>& selected);

// Step, tokens, layout, files, a table of the tensors, and the configuration. `path` is a
// run directory, its checkpoints directory or a checkpoint. Reads the manifest only;
// throws Error if there is none or it is damaged.
std::string describe_checkpoint(const std::filesystem::path& path);

}  // namespace conclave
