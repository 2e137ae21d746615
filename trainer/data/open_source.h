// Finds out which format a data file has.
#pragma once

#include <string>

#include "configs/run.pb.h"
#include "trainer/data/token_source.h"

namespace conclave::data {

// True if something is there to open.
bool source_exists(const std::string& path, config::Data::Tokenizer tokenizer);

// tokenizer bytes: the file is text. pretokenized: Megatron if an .idx belongs to the path, llm.c by its
// magic number, otherwise nanoGPT, which has no header. Throws Error that names the path, what was found and
// how to mend it.
TokenSource open_source(const std::string& path, config::Data::Tokenizer tokenizer);

}  // namespace conclave::data
