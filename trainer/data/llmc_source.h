// Token shards of llm.c: 256 int32 of header ([0] magic, [1] version, [2] token count), then the ids.
// Magic 20240520, version 1: uint16 ids. Magic 20240801, version 7: uint32 ids.
#pragma once

#include "trainer/data/token_source.h"

namespace conclave::data {

// True if the file starts with one of the two magic numbers.
bool has_llmc_magic(const MappedFile& file);

// Throws Error if the header is cut short or wrong, or if its count and the file's size disagree.
TokenSource llmc_source(MappedFile file);

}  // namespace conclave::data
