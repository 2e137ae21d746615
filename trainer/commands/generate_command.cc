#include "trainer/commands/generate_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "comm/mpi/mpi_communicator.h"
#include "comm/self/self_communicator.h"
#include "configs/resolve.h"
#include "trainer/generate.h"
#include "trainer/loaded_model.h"
#include "trainer/model_tokenizer.h"

namespace conclave {
namespace {

struct Options {
  std::string path;
  std::string prompt = "\n";
  std::vector<std::int32_t> prompt_ids;
  std::int64_t tokens = 400;
  SamplingOptions sampling;
  std::vector<std::string> overrides;
};

std::vector<std::int32_t> prompt_tokens(const Options& options, const config::Experiment& experiment,
                                        const data::Tokenizer* tokenizer) {
  if (!options.prompt_ids.empty()) {
    for (const std::int32_t id : options.prompt_ids) {
      if (id < 0 || id >= experiment.model().vocab_size()) {
        throw ConfigError(fmt::format("--prompt-ids has {}; this model knows the ids 0 to {}", id,
                                      experiment.model().vocab_size() - 1));
      }
    }
    return options.prompt_ids;
  }
  if (tokenizer == nullptr) {
    throw ConfigError(
        "this model was trained on token ids without a tokenizer: give --prompt-ids in place of --prompt, or "
        "its tokenizer with data.tokenizer_file=PATH");
  }
  if (options.prompt.empty()) throw ConfigError("--prompt is empty; give at least one character");
  std::vector<std::int32_t> ids;
  tokenizer->encode(options.prompt, /*begins=*/true, ids);
  check_vocabulary(ids, experiment);
  return ids;
}

// Writes each token as it comes: as its id, or as what it adds to the text so far (a character may take
// several tokens, and the first of a text may lose its space).
class Writer {
 public:
  Writer(const data::Tokenizer* tokenizer, std::vector<std::int32_t> prompt)
      : tokenizer_(tokenizer), ids_(std::move(prompt)) {
    if (tokenizer_ != nullptr) written_ = tokenizer_->decode(ids_).size();
  }
  void write(std::int32_t token) {
    if (tokenizer_ == nullptr) {
      fmt::print("{} ", token);
    } else {
      ids_.push_back(token);
      const std::string text = tokenizer_->decode(ids_);
      if (text.size() > written_) std::fwrite(text.data() + written_, 1, text.size() - written_, stdout);
      written_ = std::max(written_, text.size());
    }
    std::fflush(stdout);
  }

 private:
  const data::Tokenizer* tokenizer_;
  std::vector<std::int32_t> ids_;
  std::size_t written_ = 0;
};

int generate_text(const Options& options) {
  if (MpiRuntime::launched_rank() != 0) return 0;  // one writer is enough, whoever started several
  const auto world = make_self_communicator();
  const std::filesystem::path checkpoint = resolve_checkpoint(options.path);
  const config::Experiment experiment = checkpoint_experiment(checkpoint, options.overrides);
  if (!experiment.model().causal()) {
    throw ConfigError(
        fmt::format("{} was trained with model.causal: false: it fills in tokens from both sides and can't "
                    "continue a text; "
                    "train with model.causal: true to generate",
                    checkpoint.string()));
  }
  if (config::leaks_future(experiment)) {
    throw ConfigError(
        "this model's router is expert_choice, which chooses a token's experts by the tokens after it: they "
        "don't exist yet when text is generated token by token. Train with another moe.router, such as "
        "softmax, "
        "to generate");
  }
  const bool is_text = options.prompt_ids.empty();
  const auto tokenizer = is_text ? model_tokenizer(experiment) : nullptr;
  const std::vector<std::int32_t> prompt = prompt_tokens(options, experiment, tokenizer.get());
  const LoadedModel loaded = load_model(checkpoint, experiment, *world);

  Writer writer(tokenizer.get(), prompt);
  if (is_text) std::fwrite(options.prompt.data(), 1, options.prompt.size(), stdout);
  generate({.model = loaded.language_model(),
            .grid = *loaded.grid,
            .gpu = loaded.device.gpu.get(),
            .max_seq = experiment.model().max_seq(),
            .prompt = prompt,
            .count = options.tokens,
            .sampling = options.sampling},
           [&](std::int32_t token) { writer.write(token); });
  std::fputc('\n', stdout);
  return 0;
}

}  // namespace

void add_generate_command(CLI::App& app, std::function<int()>& selected) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("generate", "Write text with a trained model");
  command->add_option("checkpoint", options->path, "A run directory (its newest checkpoint) or a checkpoint")
      ->required();
  command->add_option("overrides", options->overrides,
                      "key=value over the configuration that is stored in the checkpoint, e.g. "
                      "data.tokenizer_file=tokenizer.json");
  command->add_option("--prompt", options->prompt, "The text to continue")->capture_default_str();
  command
      ->add_option("--prompt-ids", options->prompt_ids,
                   "Token ids to continue, for models without a tokenizer")
      ->delimiter(',');
  command->add_option("--tokens", options->tokens, "Tokens to write")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command->add_option("--temperature", options->sampling.temperature, "0: always the most probable token")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 100.0));
  command
      ->add_option("--top-p", options->sampling.top_p,
                   "Keep the most probable tokens that reach this probability")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1.0));
  command->add_option("--top-k", options->sampling.top_k, "Keep the k most probable tokens; 0: all")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  command->add_option("--seed", options->sampling.seed, "The same seed writes the same text")
      ->capture_default_str();
  command->callback([options, &selected] { selected = [options] { return generate_text(*options); }; });
}

}  // namespace conclave
