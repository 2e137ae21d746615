#include "trainer/data/token_source.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "comm/base/error.h"

namespace conclave::data {
namespace {

// Calls visit with a value of the C++ type that `type` stands for.
template <class Visit>
auto with_type(TokenType type, Visit visit) {
  switch (type) {
    case TokenType::kUInt8:
      return visit(std::uint8_t{});
    case TokenType::kInt8:
      return visit(std::int8_t{});
    case TokenType::kInt16:
      return visit(std::int16_t{});
    case TokenType::kUInt16:
      return visit(std::uint16_t{});
    case TokenType::kInt32:
      return visit(std::int32_t{});
    case TokenType::kUInt32:
      return visit(std::uint32_t{});
    case TokenType::kInt64:
      break;
  }
  return visit(std::int64_t{});
}

template <class T>
T load(const std::byte* ids, std::int64_t index) {
  T id;
  std::memcpy(&id, ids + index * static_cast<std::int64_t>(sizeof(T)), sizeof(T));
  return id;
}

struct IdLimits {
  std::int64_t smallest = std::numeric_limits<std::int64_t>::max();
  std::int64_t largest = std::numeric_limits<std::int64_t>::min();
};

template <class T>
IdLimits limits_of(const std::byte* ids, std::int64_t count) {
  T smallest = std::numeric_limits<T>::max();
  T largest = std::numeric_limits<T>::lowest();
  for (std::int64_t i = 0; i < count; ++i) {
    const T id = load<T>(ids, i);
    smallest = std::min(smallest, id);
    largest = std::max(largest, id);
  }
  return {static_cast<std::int64_t>(smallest), static_cast<std::int64_t>(largest)};
}

}  // namespace

std::int64_t size_of(TokenType type) {
  return with_type(type, [](auto id) { return static_cast<std::int64_t>(sizeof(id)); });
}

TokenSource::TokenSource(MappedFile file, std::string format, TokenType type, std::vector<Run> runs,
                         std::int64_t tokens)
    : file_(std::move(file)),
      format_(std::move(format)),
      type_(type),
      runs_(std::move(runs)),
      tokens_(tokens) {}

std::int64_t TokenSource::run_end(std::size_t run) const {
  return run + 1 < runs_.size() ? runs_[run + 1].first_token : tokens_;
}

void TokenSource::read(std::int64_t first, std::span<std::int32_t> out) const {
  const auto wanted = static_cast<std::int64_t>(out.size());
  CONCLAVE_CHECK(first >= 0 && first + wanted <= tokens_, "{}: tokens [{}, {}) were asked for, it has {}",
                 path(), first, first + wanted, tokens_);
  const auto after = std::upper_bound(
      runs_.begin(), runs_.end(), first,
      [](std::int64_t token, const Run& candidate) { return token < candidate.first_token; });
  auto run = static_cast<std::size_t>(after - runs_.begin()) - 1;
  for (std::int64_t done = 0; done < wanted; ++run) {
    const std::int64_t skipped = first + done - runs_[run].first_token;
    const std::int64_t count = std::min(wanted - done, run_end(run) - (first + done));
    with_type(type_, [&](auto type) {
      using T = decltype(type);
      const std::byte* ids =
          file_.bytes().data() + runs_[run].first_byte + skipped * static_cast<std::int64_t>(sizeof(T));
      std::int32_t* target = out.data() + done;
      for (std::int64_t i = 0; i < count; ++i) target[i] = static_cast<std::int32_t>(load<T>(ids, i));
    });
    done += count;
  }
}

void TokenSource::check_token_ids(std::int64_t vocab_size) const {
  with_type(type_, [&](auto type) {
    using T = decltype(type);
    const bool cannot_be_wrong =
        std::numeric_limits<T>::min() == 0 && std::cmp_less(std::numeric_limits<T>::max(), vocab_size);
    if (cannot_be_wrong) return;

    IdLimits limits;
    for (std::size_t run = 0; run < runs_.size(); ++run) {
      const IdLimits found =
          limits_of<T>(file_.bytes().data() + runs_[run].first_byte, run_end(run) - runs_[run].first_token);
      limits.smallest = std::min(limits.smallest, found.smallest);
      limits.largest = std::max(limits.largest, found.largest);
    }
    if (limits.smallest >= 0 && limits.largest < vocab_size) return;

    for (std::size_t run = 0; run < runs_.size(); ++run) {
      for (std::int64_t token = runs_[run].first_token; token < run_end(run); ++token) {
        const auto id = static_cast<std::int64_t>(
            load<T>(file_.bytes().data() + runs_[run].first_byte, token - runs_[run].first_token));
        CONCLAVE_CHECK(
            id >= 0 && id < vocab_size,
            "{}: token {} of {} has id {}, outside [0, {}) of model.vocab_size; the file's ids reach "
            "from {} to {}. Read as {}: is that its format? If so, set model.vocab_size to the "
            "tokenizer's size",
            path(), token, tokens_, id, vocab_size, limits.smallest, limits.largest, format_);
      }
    }
  });
}

}  // namespace conclave::data
