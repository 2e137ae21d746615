// `conclave data`: text to token files, and a look into them.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace conclave {

void add_data_command(CLI::App& app, std::function<int()>& selected);

}  // namespace conclave
