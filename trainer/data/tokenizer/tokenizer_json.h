// tokenizer.json, the file of Hugging Face's tokenizers.
#pragma once

#include <memory>
#include <string>

#include "trainer/data/tokenizer/tokenizer.h"

namespace conclave::data {

// Understands BPE models with a byte-level pre-tokenizer (alone, or behind a split by one of the patterns in
// pre_tokenizer.h; normalizer none or NFC), and those with metaspaces (as normalizers Prepend and Replace, or
// as the Metaspace pre-tokenizer). The post-processor, which adds tokens around a text, is not applied.
// Throws Error naming the file, the part and its type for everything else: no part is passed over.
std::unique_ptr<Tokenizer> open_tokenizer_json(const std::string& path);

}  // namespace conclave::data
