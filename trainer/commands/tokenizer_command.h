// `conclave tokenizer`: learns a vocabulary.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace conclave {

void add_tokenizer_command(CLI::App& app, std::function<int()>& selected);

}  // namespace conclave
