#include "trainer/data/megatron_writer.h"

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "comm/base/error.h"

namespace conclave::data {
namespace {

// Lengths are 32 bits.
constexpr std::int64_t kLongestSequence = std::int64_t{1} << 30;

TokenType type_for(std::int64_t vocab_size) {
  if (vocab_size <= 1 << 8) return TokenType::kUInt8;
  return vocab_size <= 1 << 16 ? TokenType::kUInt16 : TokenType::kInt32;
}

std::uint8_t dtype_code(TokenType type) {
  switch (type) {
    case TokenType::kUInt8:
      return 1;
    case TokenType::kUInt16:
      return 8;
    default:
      return 4;
  }
}

std::string unfinished(const std::string& path) { return path + ".tmp"; }

template <class T>
void store_as(std::span<const std::int32_t> ids, std::vector<std::byte>& stored) {
  stored.resize(ids.size() * sizeof(T));
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const T id = static_cast<T>(ids[i]);
    std::memcpy(stored.data() + i * sizeof(T), &id, sizeof(T));
  }
}

template <class T>
void write_value(DurableFile& file, T value) {
  file.write(std::as_bytes(std::span(&value, 1)));
}

MegatronPaths new_paths(const std::string& prefix) {
  const MegatronPaths paths = megatron_paths(prefix);
  for (const std::string& path : {paths.index, paths.tokens})
    CONCLAVE_CHECK(!std::filesystem::exists(path), "{} exists: remove it or name another --out", path);
  if (const auto parent = std::filesystem::path(prefix).parent_path(); !parent.empty())
    create_directories_durably(parent);
  return paths;
}

}  // namespace

MegatronWriter::MegatronWriter(const std::string& prefix, std::int64_t vocab_size)
    : paths_(new_paths(prefix)), type_(type_for(vocab_size)), token_file_(unfinished(paths_.tokens)) {}

MegatronWriter::~MegatronWriter() {
  if (finished_) return;
  std::error_code best_effort;
  for (const std::string& path : {paths_.index, paths_.tokens})
    std::filesystem::remove(unfinished(path), best_effort);
}

void MegatronWriter::append(std::span<const std::int32_t> ids) {
  while (!ids.empty()) {
    const auto room = static_cast<std::size_t>(kLongestSequence - open_tokens_);
    const std::span<const std::int32_t> now = ids.first(std::min(room, ids.size()));
    if (type_ == TokenType::kUInt8) store_as<std::uint8_t>(now, stored_);
    if (type_ == TokenType::kUInt16) store_as<std::uint16_t>(now, stored_);
    if (type_ == TokenType::kInt32) store_as<std::int32_t>(now, stored_);
    token_file_.write(stored_);
    open_tokens_ += static_cast<std::int64_t>(now.size());
    tokens_ += static_cast<std::int64_t>(now.size());
    if (open_tokens_ == kLongestSequence) end_sequence();
    ids = ids.subspan(now.size());
  }
}

void MegatronWriter::end_sequence() {
  if (open_tokens_ > 0) lengths_.push_back(static_cast<std::int32_t>(open_tokens_));
  open_tokens_ = 0;
}

void MegatronWriter::end_document() {
  end_sequence();
  const auto sequences = static_cast<std::int64_t>(lengths_.size());
  if (sequences > edges_.back()) edges_.push_back(sequences);
}

void MegatronWriter::finish() {
  CONCLAVE_CHECK(tokens_ > 0, "{}: no tokens: the texts are empty", paths_.tokens);
  token_file_.close_durably();
  DurableFile index(unfinished(paths_.index));
  index.write(std::string_view("MMIDIDX\0\0", 9));
  write_value(index, std::uint64_t{1});
  write_value(index, dtype_code(type_));
  write_value(index, static_cast<std::uint64_t>(lengths_.size()));
  write_value(index, static_cast<std::uint64_t>(edges_.size()));
  index.write(std::as_bytes(std::span(lengths_)));
  std::vector<std::int64_t> offsets;
  std::int64_t offset = 0;
  for (const std::int32_t length : lengths_) {
    offsets.push_back(offset);
    offset += length * size_of(type_);
  }
  index.write(std::as_bytes(std::span(offsets)));
  index.write(std::as_bytes(std::span(edges_)));
  index.close_durably();
  rename_path(unfinished(paths_.tokens), paths_.tokens);
  rename_path(unfinished(paths_.index), paths_.index);
  finished_ = true;
  sync_directory(std::filesystem::absolute(paths_.index).parent_path());
}

}  // namespace conclave::data
