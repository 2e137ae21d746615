// What an export tells Hugging Face about text.
#pragma once

#include <filesystem>
#include <string>

#include "configs/run.pb.h"

namespace conclave {

// tokenizer.json of the byte tokenizer: byte b of the UTF-8 text is token b.
std::string byte_tokenizer_json();

// Writes tokenizer.json (bytes), or copies data.tokenizer_file, with a tokenizer_config.json; nothing for
// token files without a tokenizer. Throws Error if that can't be read.
void write_tokenizer_files(const config::Experiment& experiment, const std::filesystem::path& directory);

}  // namespace conclave
