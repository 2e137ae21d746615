#include "trainer/data/llmc_source.h"

#include <utility>

#include "comm/base/error.h"

namespace conclave::data {
namespace {

constexpr std::int32_t kMagicUInt16 = 20240520;
constexpr std::int32_t kMagicUInt32 = 20240801;
constexpr std::int64_t kHeaderBytes = 256 * sizeof(std::int32_t);

}  // namespace

bool has_llmc_magic(const MappedFile& file) {
  if (file.size_bytes() < static_cast<std::int64_t>(sizeof(std::int32_t))) return false;
  const auto magic = file.value_at<std::int32_t>(0);
  return magic == kMagicUInt16 || magic == kMagicUInt32;
}

TokenSource llmc_source(MappedFile file) {
  CONCLAVE_CHECK(has_llmc_magic(file), "{}: does not start with a magic number of llm.c ({} or {})",
                 file.path(), kMagicUInt16, kMagicUInt32);
  CONCLAVE_CHECK(file.size_bytes() >= kHeaderBytes,
                 "{}: llm.c shard of {} bytes, shorter than its header of {}; write or copy it again",
                 file.path(), file.size_bytes(), kHeaderBytes);
  const auto magic = file.value_at<std::int32_t>(0);
  const auto version = file.value_at<std::int32_t>(4);
  const std::int64_t tokens = file.value_at<std::int32_t>(8);
  const TokenType type = magic == kMagicUInt16 ? TokenType::kUInt16 : TokenType::kUInt32;
  const std::int32_t expected_version = magic == kMagicUInt16 ? 1 : 7;
  CONCLAVE_CHECK(version == expected_version,
                 "{}: llm.c shard with magic {} has version {}, expected {}; tokenize the text again",
                 file.path(), magic, version, expected_version);
  const std::int64_t expected_bytes = kHeaderBytes + tokens * size_of(type);
  CONCLAVE_CHECK(
      tokens >= 0 && file.size_bytes() == expected_bytes,
      "{}: llm.c shard of {} bytes, but its header counts {} tokens, which make {} bytes; is it cut "
      "short? Write or copy it again",
      file.path(), file.size_bytes(), tokens, expected_bytes);
  return TokenSource(std::move(file), type == TokenType::kUInt16 ? "llm.c (uint16)" : "llm.c (uint32)", type,
                     {{0, kHeaderBytes}}, tokens);
}

}  // namespace conclave::data
