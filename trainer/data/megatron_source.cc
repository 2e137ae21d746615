#include "trainer/data/megatron_source.h"

#include <algorithm>
#include <filesystem>
#include <string_view>
#include <utility>
#include <vector>

#include "comm/base/error.h"

namespace conclave::data {
namespace {

constexpr std::string_view kMagic("MMIDIDX\0\0", 9);
constexpr std::int64_t kHeaderBytes = 34;

TokenType token_type(const std::string& path, std::uint8_t dtype_code) {
  switch (dtype_code) {
    case 1:
      return TokenType::kUInt8;
    case 2:
      return TokenType::kInt8;
    case 3:
      return TokenType::kInt16;
    case 4:
      return TokenType::kInt32;
    case 5:
      return TokenType::kInt64;
    case 8:
      return TokenType::kUInt16;
    default:
      throw Error(
          fmt::format("{}: Megatron index with dtype code {}; token ids are integers: 1 uint8, 2 int8, "
                      "3 int16, 4 int32, 5 int64 or 8 uint16. Tokenize the text again",
                      path, dtype_code));
  }
}

struct Index {
  TokenType type = TokenType::kUInt16;
  std::int64_t sequences = 0;
  std::int64_t lengths_at = 0;  // byte offsets of the two arrays in the index file
  std::int64_t offsets_at = 0;
};

Index parse_header(const MappedFile& file) {
  CONCLAVE_CHECK(has_megatron_magic(file),
                 "{}: does not start with MMIDIDX, so it is no Megatron index; give a path whose .idx is one",
                 file.path());
  CONCLAVE_CHECK(file.size_bytes() >= kHeaderBytes,
                 "{}: Megatron index of {} bytes, shorter than its header of {}; write or copy it again",
                 file.path(), file.size_bytes(), kHeaderBytes);
  const auto version = file.value_at<std::uint64_t>(9);
  CONCLAVE_CHECK(version == 1, "{}: Megatron index of version {}, expected 1; preprocess the text again",
                 file.path(), version);
  const TokenType type = token_type(file.path(), file.value_at<std::uint8_t>(17));
  const auto sequences = file.value_at<std::uint64_t>(18);
  const auto document_edges = file.value_at<std::uint64_t>(26);
  const auto file_bytes = static_cast<std::uint64_t>(file.size_bytes());
  // The first two comparisons keep the sum from wrapping round.
  CONCLAVE_CHECK(
      sequences <= file_bytes && document_edges <= file_bytes &&
          kHeaderBytes + 12 * sequences + 8 * document_edges == file_bytes,
      "{}: Megatron index of {} bytes, but its header counts {} sequences and {} document edges, which "
      "make {} + 12 x {} + 8 x {} bytes; is it cut short? Write or copy it again",
      file.path(), file_bytes, sequences, document_edges, kHeaderBytes, sequences, document_edges);
  const auto count = static_cast<std::int64_t>(sequences);
  return {type, count, kHeaderBytes, kHeaderBytes + 4 * count};
}

}  // namespace

MegatronPaths megatron_paths(const std::string& path) {
  std::filesystem::path prefix(path);
  if (prefix.extension() == ".idx" || prefix.extension() == ".bin") prefix.replace_extension();
  return {prefix.string() + ".idx", prefix.string() + ".bin"};
}

bool has_megatron_magic(const MappedFile& file) {
  return file.bytes().size() >= kMagic.size() &&
         std::memcmp(file.bytes().data(), kMagic.data(), kMagic.size()) == 0;
}

TokenSource megatron_source(const MegatronPaths& paths) {
  const MappedFile index_file(paths.index);
  const Index index = parse_header(index_file);
  MappedFile token_file(paths.tokens);

  // The usual index has all sequences side by side: then this is one run.
  std::vector<TokenSource::Run> runs;
  std::int64_t tokens = 0;
  std::int64_t end_byte = 0;       // of the sequence before
  std::int64_t last_end_byte = 0;  // the furthest
  for (std::int64_t sequence = 0; sequence < index.sequences; ++sequence) {
    const std::int64_t length = index_file.value_at<std::int32_t>(index.lengths_at + 4 * sequence);
    const auto offset = index_file.value_at<std::int64_t>(index.offsets_at + 8 * sequence);
    CONCLAVE_CHECK(
        length >= 0 && offset >= 0 && offset <= token_file.size_bytes() &&
            length * size_of(index.type) <= token_file.size_bytes() - offset,
        "{}: sequence {} has {} tokens at byte {}, but {} has {} bytes; is one of the two cut short or "
        "from another data set? Copy both again",
        paths.index, sequence, length, offset, paths.tokens, token_file.size_bytes());
    if (length == 0) continue;
    if (runs.empty() || offset != end_byte) runs.push_back({tokens, offset});
    tokens += length;
    end_byte = offset + length * size_of(index.type);
    last_end_byte = std::max(last_end_byte, end_byte);
  }
  CONCLAVE_CHECK(
      last_end_byte == token_file.size_bytes(),
      "{}: covers the first {} bytes of {}, which has {}; are they from one data set? Copy both again",
      paths.index, last_end_byte, paths.tokens, token_file.size_bytes());
  return TokenSource(std::move(token_file), "Megatron", index.type, std::move(runs), tokens);
}

}  // namespace conclave::data
