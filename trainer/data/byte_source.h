// Plain text (or anything else) with the byte tokenizer: one token a byte, ids 0 to 255.
#pragma once

#include "trainer/data/token_source.h"

namespace conclave::data {

TokenSource byte_source(MappedFile file);

}  // namespace conclave::data
