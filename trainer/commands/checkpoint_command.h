// `conclave checkpoint inspect | verify | diff | prune | reshard | consolidate`.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <functional>
#include <string>

#include "trainer/checkpoint/compare_checkpoints.h"
#include "trainer/checkpoint/verify_checkpoint.h"

namespace conclave {

// Registers the subcommands. When the user calls one, `selected` becomes the action to run;
// it returns the exit code.
void add_checkpoint_command(CLI::App& app, std::function<int()>& selected);

// Step, tokens, layout, files, a table of the tensors, and the configuration. `path` is a
// run directory, its checkpoints directory or a checkpoint. Reads the manifest only;
// throws Error if there is none or it is damaged.
std::string describe_checkpoint(const std::filesystem::path& path);

// The results of the other commands in words.
std::string describe(const Verification& verification);
std::string describe(const CheckpointComparison& comparison);
std::string describe(const Pruning& pruning, bool dry_run);

}  // namespace conclave
