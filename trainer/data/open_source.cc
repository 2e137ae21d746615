#include "trainer/data/open_source.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include "comm/base/error.h"
#include "trainer/data/byte_source.h"
#include "trainer/data/llmc_source.h"
#include "trainer/data/megatron_source.h"
#include "trainer/data/nanogpt_source.h"

namespace conclave::data {
namespace {

bool exists(const std::string& path) {
  std::error_code ignored;  // what can't be looked at is reported when it is opened
  return std::filesystem::exists(path, ignored);
}

// PREFIX.bin without PREFIX.idx is a plain .bin; PREFIX.idx always means Megatron.
bool is_megatron(const std::string& path) {
  return std::filesystem::path(path).extension() == ".idx" || exists(megatron_paths(path).index);
}

}  // namespace

bool source_exists(const std::string& path, config::Data::Tokenizer tokenizer) {
  if (tokenizer == config::Data::pretokenized && is_megatron(path)) {
    const MegatronPaths paths = megatron_paths(path);
    return exists(paths.index) && exists(paths.tokens);
  }
  return exists(path);
}

TokenSource open_source(const std::string& path, config::Data::Tokenizer tokenizer) {
  if (tokenizer == config::Data::pretokenized && is_megatron(path))
    return megatron_source(megatron_paths(path));

  MappedFile file(path);
  if (tokenizer == config::Data::pretokenized) {
    return has_llmc_magic(file) ? llmc_source(std::move(file)) : nanogpt_source(std::move(file));
  }
  CONCLAVE_CHECK(
      !has_llmc_magic(file) && !has_megatron_magic(file),
      "{}: holds token ids ({}), not text; set data.tokenizer: pretokenized and model.vocab_size, or "
      "give the text",
      path, has_llmc_magic(file) ? "an llm.c shard" : "a Megatron index");
  return byte_source(std::move(file));
}

}  // namespace conclave::data
