#include "trainer/commands/tokenizer_command.h"

#include <fmt/format.h>

#include <memory>
#include <string>
#include <vector>

#include "trainer/data/tokenizer/sentencepiece_tokenizer.h"

namespace conclave {

void add_tokenizer_command(CLI::App& app, std::function<int()>& selected) {
  struct Options {
    std::vector<std::string> texts;
    std::string out;
    std::string kind = "bpe";
    std::int64_t vocab_size = 8000;
  };
  const auto options = std::make_shared<Options>();
  CLI::App* group = app.add_subcommand("tokenizer", "Learn a tokenizer from texts");
  group->require_subcommand(1);
  CLI::App* command = group->add_subcommand("train", "Learn a SentencePiece model");
  command->add_option("TEXTS", options->texts, "Plain texts, a sentence or paragraph a line")->required();
  command->add_option("--out", options->out, "The file to write, something.model")->required();
  command->add_option("--vocab-size", options->vocab_size, "Tokens to learn, the 256 bytes included")
      ->capture_default_str()
      ->check(CLI::Range(300, 1'000'000));
  command->add_option("--kind", options->kind, "How it is learnt")
      ->capture_default_str()
      ->check(CLI::IsMember({"bpe", "unigram"}));
  command->footer("`conclave data prepare --tokenizer something.model` encodes texts with it.");
  command->callback([options, &selected] {
    selected = [options] {
      data::train_sentencepiece(options->texts, options->out,
                                {.vocab_size = options->vocab_size, .unigram = options->kind == "unigram"});
      fmt::print("{}: {} tokens\n", options->out, data::open_sentencepiece(options->out)->vocab_size());
      return 0;
    };
  });
}

}  // namespace conclave
