// Megatron's indexed dataset: PREFIX.bin holds the ids, PREFIX.idx says where each sequence lies:
//   "MMIDIDX\0\0" | u64 version 1 | u8 dtype code | u64 sequences | u64 document edges
//   | i32 lengths[sequences] | i64 byte offsets[sequences] | i64 edges[document edges]
// The sequences are read one after the other in the order of the index; training windows cross the
// borders of documents.
#pragma once

#include <string>

#include "trainer/data/token_source.h"

namespace conclave::data {

struct MegatronPaths {
  std::string index;
  std::string tokens;
};

// The two files that `path` means: PREFIX.idx, PREFIX.bin or PREFIX.
MegatronPaths megatron_paths(const std::string& path);

// True if the file starts with the magic of an index.
bool has_megatron_magic(const MappedFile& file);

// Throws Error if either file is missing or damaged, or if they don't belong together.
TokenSource megatron_source(const MegatronPaths& paths);

}  // namespace conclave::data
