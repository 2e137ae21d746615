#include "trainer/data/prepare.h"

#include <omp.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "comm/base/error.h"
#include "trainer/data/mapped_file.h"
#include "trainer/data/megatron_writer.h"

namespace conclave::data {
namespace {

// Long texts are cut into parts of about this size, and as much for each thread is encoded at once.
constexpr std::size_t kPartBytes = std::size_t{1} << 20;
constexpr std::size_t kPartsPerThread = 8;

// A stretch of what is encoded.
struct Part {
  std::string_view bytes;         // of the file: a stretch of the text, or a line of JSON
  std::int64_t line = 0;          // of a .jsonl file, from 1; 0: plain text
  bool begins = true;             // the document
  bool ends = true;               // the document
  std::vector<std::int32_t> ids;  // the result
  std::optional<Error> failure;
};

// The parts of one file, one after the other.
class PartReader {
 public:
  PartReader(std::string_view text, bool has_lines, const Tokenizer& tokenizer)
      : text_(text), has_lines_(has_lines), tokenizer_(tokenizer) {}

  // False at the end of the file.
  bool next(Part& part) { return has_lines_ ? next_line(part) : next_stretch(part); }

 private:
  bool next_line(Part& part) {
    while (at_ < text_.size()) {
      const std::size_t end = std::min(text_.find('\n', at_), text_.size());
      const std::string_view line = text_.substr(at_, end - at_);
      at_ = end + 1;
      ++line_;
      if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
      part = {.bytes = line, .line = line_, .begins = true, .ends = true, .ids = {}, .failure = {}};
      return true;
    }
    return false;
  }
  bool next_stretch(Part& part) {
    if (at_ >= text_.size()) return false;
    const std::string_view rest = text_.substr(at_);
    const std::size_t bytes = rest.size() <= kPartBytes ? rest.size() : tokenizer_.cut(rest, kPartBytes);
    part = {.bytes = rest.substr(0, bytes),
            .line = 0,
            .begins = at_ == 0,
            .ends = bytes == rest.size(),
            .ids = {},
            .failure = {}};
    at_ += bytes;
    return true;
  }

  std::string_view text_;
  bool has_lines_;
  const Tokenizer& tokenizer_;
  std::size_t at_ = 0;
  std::int64_t line_ = 0;
};

std::string text_of_line(const Part& part, const std::string& key) {
  const auto json = nlohmann::json::parse(part.bytes, nullptr, /*allow_exceptions=*/false);
  CONCLAVE_CHECK(json.is_object(), "line {}: is no JSON object", part.line);
  const auto text = json.find(key);
  CONCLAVE_CHECK(text != json.end() && text->is_string(),
                 "line {}: has no text in \"{}\"; name its field with --json-key", part.line, key);
  return text->get<std::string>();
}

// Neighbouring parts that one thread encodes at once: one stretch of a text, or lines of this many bytes.
constexpr std::size_t kLinesAtOnceBytes = std::size_t{1} << 16;
std::vector<std::span<Part>> groups_of(std::span<Part> parts) {
  std::vector<std::span<Part>> groups;
  for (std::size_t begin = 0, end = 0; begin < parts.size(); begin = end) {
    for (std::size_t bytes = 0; end < parts.size() && bytes < kLinesAtOnceBytes; ++end)
      bytes += parts[end].bytes.size();
    groups.push_back(parts.subspan(begin, end - begin));
  }
  return groups;
}

void encode_lines(std::span<Part> lines, const Tokenizer& tokenizer, const std::string& json_key) {
  std::vector<std::string> texts(lines.size());
  for (std::size_t i = 0; i < lines.size(); ++i) texts[i] = text_of_line(lines[i], json_key);
  std::vector<std::vector<std::int32_t>> ids(lines.size());
  tokenizer.encode_texts(texts, ids);
  for (std::size_t i = 0; i < lines.size(); ++i) lines[i].ids = std::move(ids[i]);
}

// A failure is noted with the first part of the group.
void encode(std::span<Part> group, const Tokenizer& tokenizer, const std::string& json_key) {
  Part& first = group.front();
  try {
    if (first.line > 0) {
      encode_lines(group, tokenizer, json_key);
    } else {
      for (Part& part : group) tokenizer.encode(part.bytes, part.begins, part.ids);
    }
  } catch (const Error& error) {
    first.failure = error;
  } catch (const std::exception& error) {
    first.failure = Error(error.what());
  }
}

}  // namespace

Prepared prepare(std::span<const std::string> files, const Tokenizer& tokenizer, const std::string& prefix,
                 const PrepareOptions& options) {
  std::vector<std::int32_t> end;
  if (!options.end_token.empty()) {
    end.push_back(static_cast<std::int32_t>(tokenizer.id_of(options.end_token)));
    CONCLAVE_CHECK(end.front() >= 0, "--end-token: the tokenizer has no token \"{}\"", options.end_token);
  }
  std::vector<MappedFile> mapped;
  Prepared result;
  for (const std::string& file : files) {
    mapped.emplace_back(file);
    result.bytes += mapped.back().size_bytes();
  }

  MegatronWriter writer(prefix, tokenizer.vocab_size());
  const std::size_t at_once = kPartsPerThread * static_cast<std::size_t>(options.threads);
  std::int64_t done = 0;
  for (const MappedFile& file : mapped) {
    const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
    PartReader reader(text, std::filesystem::path(file.path()).extension() == ".jsonl", tokenizer);
    std::vector<Part> parts;
    for (bool more = true; more;) {
      parts.clear();
      for (std::size_t bytes = 0; more && bytes < at_once * kPartBytes;) {
        Part part;
        more = reader.next(part);
        bytes += part.bytes.size();
        if (more) parts.push_back(std::move(part));
      }
      const std::vector<std::span<Part>> groups = groups_of(parts);
#pragma omp parallel for schedule(dynamic) num_threads(options.threads)
      for (std::size_t i = 0; i < groups.size(); ++i) encode(groups[i], tokenizer, options.json_key);

      for (Part& part : parts) {
        if (part.failure) throw Error(fmt::format("{}: {}", file.path(), part.failure->what()));
        writer.append(part.ids);
        if (part.ends) {
          writer.append(end);
          writer.end_document();
        }
        done += static_cast<std::int64_t>(part.bytes.size());
        MappedFile::release(std::as_bytes(std::span(part.bytes)));
      }
      if (options.progress) options.progress(done, result.bytes);
    }
  }
  writer.finish();
  result.documents = writer.documents();
  result.tokens = writer.tokens();
  return result;
}

}  // namespace conclave::data
