#include "trainer/inspect/trace_text.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "comm/base/error.h"
#include "trainer/data/dataset.h"
#include "trainer/data/open_source.h"
#include "trainer/evaluation_report.h"

namespace conclave {
namespace {

std::vector<std::int32_t> first_bytes(const std::string& path, std::int64_t max_tokens,
                                      std::int64_t& file_tokens) {
  std::error_code ignored;  // what can't be looked at can't be opened either
  std::ifstream file(path, std::ios::binary);
  CONCLAVE_CHECK(file.good() && !std::filesystem::is_directory(path, ignored),
                 "{}: there is no such text to read", path);
  std::string text;
  if (std::filesystem::is_regular_file(path, ignored)) {
    file_tokens = static_cast<std::int64_t>(std::filesystem::file_size(path));
    const std::int64_t count = max_tokens > 0 ? std::min(max_tokens, file_tokens) : file_tokens;
    text.resize(static_cast<std::size_t>(count));
    file.read(text.data(), count);
    CONCLAVE_CHECK(file.gcount() == count, "{}: only {} of {} bytes can be read", path, file.gcount(), count);
  } else {  // a pipe, as in --text <(echo "some words")
    text.assign(std::istreambuf_iterator<char>(file), {});
    file_tokens = static_cast<std::int64_t>(text.size());
    if (max_tokens > 0 && max_tokens < file_tokens) text.resize(static_cast<std::size_t>(max_tokens));
  }
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(text.data());
  return {bytes, bytes + text.size()};
}

std::vector<std::int32_t> first_ids(const std::string& path, const config::Experiment& experiment,
                                    std::int64_t max_tokens, std::int64_t& file_tokens) {
  const data::TokenSource source = data::open_source(path, experiment.data().tokenizer());
  source.check_token_ids(experiment.model().vocab_size());
  file_tokens = source.tokens();
  std::vector<std::int32_t> tokens(
      static_cast<std::size_t>(max_tokens > 0 ? std::min(max_tokens, file_tokens) : file_tokens));
  source.read(0, tokens);
  return tokens;
}

}  // namespace

InspectedText read_inspected_text(const std::string& argument, const config::Experiment& experiment,
                                  std::int64_t max_tokens) {
  InspectedText text;
  const std::size_t equals = argument.find('=');
  const bool named = equals != std::string::npos && !std::filesystem::exists(argument);
  const std::string path = named ? argument.substr(equals + 1) : argument;
  text.name = named ? argument.substr(0, equals) : std::filesystem::path(path).filename().string();
  text.tokens = tokens_are_bytes(experiment) ? first_bytes(path, max_tokens, text.file_tokens)
                                             : first_ids(path, experiment, max_tokens, text.file_tokens);
  CONCLAVE_CHECK(!text.tokens.empty(), "{} is empty: there is no token to route", path);
  return text;
}

TracedTexts trace_texts(const LoadedModel& loaded, const std::vector<InspectedText>& texts) {
  LanguageModel& model = loaded.language_model();
  CONCLAVE_CHECK(!model.moe_layers().empty(),
                 "{} is of a dense model: it has no MoE layer, and so no routing to look into",
                 loaded.checkpoint.string());
  TracedTexts traced;
  traced.trace = empty_trace(model, tokens_are_bytes(loaded.experiment));
  const auto window = static_cast<std::size_t>(loaded.experiment.model().max_seq());
  Arena arena;
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
      Context ctx{.arena = &arena, .grid = loaded.grid.get(), .training = false};
      ctx.batch = {.sequences = 1, .sequence_length = length, .global_sequences = 1};
      const auto sum = model.forward(ctx, tensor_view(tokens, {length}), tensor_view(targets, {length}));
      append_last_forward(model, tokens, source, traced.trace);
      arena.reset();
      traced.loss_sum += sum.loss_sum;
      traced.targets += sum.targets;
    }
  }
  return traced;
}

}  // namespace conclave
