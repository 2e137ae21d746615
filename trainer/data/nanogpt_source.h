// nanoGPT's train.bin: little-endian uint16 ids, no header.
#pragma once

#include "trainer/data/token_source.h"

namespace conclave::data {

// Throws Error if the size is odd or if the file is text: without a header nothing else would tell.
TokenSource nanogpt_source(MappedFile file);

}  // namespace conclave::data
