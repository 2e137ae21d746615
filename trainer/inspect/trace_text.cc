#include "trainer/inspect/trace_text.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>

#include "comm/base/error.h"
#include "trainer/data/dataset.h"
#include "trainer/data/open_source.h"
#include "trainer/evaluation_report.h"
#include "trainer/model_tokenizer.h"

namespace conclave {
namespace {

constexpr std::size_t kPartBytes = std::size_t{1} << 16;  // of a text that are encoded at once

// A text, and how much of its file it is.
struct Text {
  std::string bytes;
  std::int64_t file_bytes = 0;
};

// At most `max_bytes` of a file (0: all), or all that comes through a pipe, as in --text <(echo "some
// words").
Text read_text(const std::string& path, std::int64_t max_bytes) {
  std::error_code ignored;  // what can't be looked at can't be opened either
  std::ifstream file(path, std::ios::binary);
  CONCLAVE_CHECK(file.good() && !std::filesystem::is_directory(path, ignored),
                 "{}: there is no such text to read", path);
  Text text;
  if (std::filesystem::is_regular_file(path, ignored)) {
    text.file_bytes = static_cast<std::int64_t>(std::filesystem::file_size(path));
    const std::int64_t count = max_bytes > 0 ? std::min(max_bytes, text.file_bytes) : text.file_bytes;
    text.bytes.resize(static_cast<std::size_t>(count));
    file.read(text.bytes.data(), count);
    CONCLAVE_CHECK(file.gcount() == count, "{}: only {} of {} bytes can be read", path, file.gcount(), count);
  } else {
    text.bytes.assign(std::istreambuf_iterator<char>(file), {});
    text.file_bytes = static_cast<std::int64_t>(text.bytes.size());
    if (max_bytes > 0 && max_bytes < text.file_bytes) text.bytes.resize(static_cast<std::size_t>(max_bytes));
  }
  return text;
}

void read_bytes(const std::string& path, std::int64_t max_tokens, InspectedText& result) {
  const Text text = read_text(path, max_tokens);
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(text.bytes.data());
  result.tokens.assign(bytes, bytes + text.bytes.size());
  result.file_tokens = text.file_bytes;
}

// Part by part where the tokenizer allows it, until there are enough.
void encode_text(const std::string& path, const config::Experiment& experiment,
                 const data::Tokenizer& tokenizer, std::int64_t max_tokens, InspectedText& result) {
  const Text text = read_text(path, 0);
  const auto enough =
      max_tokens > 0 ? static_cast<std::size_t>(max_tokens) : std::numeric_limits<std::size_t>::max();
  std::string_view rest = text.bytes;
  while (!rest.empty() && result.tokens.size() < enough) {
    const std::size_t bytes = rest.size() > kPartBytes ? tokenizer.cut(rest, kPartBytes) : rest.size();
    tokenizer.encode(rest.substr(0, bytes), /*begins=*/rest.data() == text.bytes.data(), result.tokens);
    rest.remove_prefix(bytes);
  }
  if (rest.empty()) result.file_tokens = static_cast<std::int64_t>(result.tokens.size());
  if (result.tokens.size() > enough) result.tokens.resize(enough);
  check_vocabulary(result.tokens, experiment);
}

void read_ids(const std::string& path, const config::Experiment& experiment, std::int64_t max_tokens,
              InspectedText& result) {
  const data::TokenSource source = data::open_source(path, experiment.data().tokenizer());
  source.check_token_ids(experiment.model().vocab_size());
  const std::int64_t count = max_tokens > 0 ? std::min(max_tokens, source.tokens()) : source.tokens();
  result.tokens.resize(static_cast<std::size_t>(count));
  source.read(0, result.tokens);
  result.file_tokens = source.tokens();
}

// Names of token files, as `data prepare` writes them.
bool is_named_as_ids(const std::string& path) {
  const std::string extension = std::filesystem::path(path).extension().string();
  std::error_code ignored;  // what can't be looked at is reported when it is opened
  return extension == ".bin" || extension == ".idx" ||
         (!std::filesystem::exists(path, ignored) && std::filesystem::exists(path + ".idx", ignored));
}

}  // namespace

InspectedText read_inspected_text(const std::string& argument, const config::Experiment& experiment,
                                  const data::Tokenizer* tokenizer, std::int64_t max_tokens) {
  InspectedText text;
  const std::size_t equals = argument.find('=');
  const bool named = equals != std::string::npos && !std::filesystem::exists(argument);
  const std::string path = named ? argument.substr(equals + 1) : argument;
  text.name = named ? argument.substr(0, equals) : std::filesystem::path(path).filename().string();
  if (tokens_are_bytes(experiment)) {
    read_bytes(path, max_tokens, text);
  } else if (tokenizer == nullptr || is_named_as_ids(path)) {
    read_ids(path, experiment, max_tokens, text);
  } else {
    encode_text(path, experiment, *tokenizer, max_tokens, text);
  }
  CONCLAVE_CHECK(!text.tokens.empty(), "{} is empty: there is no token to route", path);
  return text;
}

TracedTexts trace_texts(const LoadedModel& loaded, const std::vector<InspectedText>& texts) {
  LanguageModel& model = loaded.language_model();
  CONCLAVE_CHECK(!model.moe_layers().empty(),
                 "{} is of a dense model: it has no MoE layer, and so no routing to look into",
                 loaded.checkpoint.string());
  TracedTexts traced;
  traced.trace = empty_trace(model, loaded.experiment);
  const auto window = static_cast<std::size_t>(loaded.experiment.model().max_seq());
  Arena arena(loaded.device.memory());
  for (const InspectedText& text : texts) {
    const auto source = static_cast<std::int32_t>(traced.trace.sources.size());
    traced.trace.sources.push_back(text.name);
    std::vector<std::int32_t> following(text.tokens.begin() + 1, text.tokens.end());
    following.push_back(data::kIgnoredTarget);
    for (std::size_t begin = 0; begin < text.tokens.size(); begin += window) {
      const std::size_t count = std::min(window, text.tokens.size() - begin);
      const auto tokens = std::span<const std::int32_t>(text.tokens).subspan(begin, count);
      const auto targets = std::span<const std::int32_t>(following).subspan(begin, count);
      const auto length = static_cast<std::int64_t>(count);
      Context ctx{
          .gpu = loaded.device.gpu.get(), .arena = &arena, .grid = loaded.grid.get(), .training = false};
      ctx.batch = {.sequences = 1, .sequence_length = length, .global_sequences = 1};
      const auto sum = model.forward(ctx, tensor_view(tokens, {length}), tensor_view(targets, {length}));
      ctx.synchronize();
      append_last_forward(model, tokens, source, traced.trace);
      traced.loss_sum += sum.loss_sum;
      traced.targets += sum.targets;
      arena.reset();
    }
  }
  return traced;
}

}  // namespace conclave
