#include "trainer/commands/data_command.h"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "comm/base/error.h"
#include "configs/run.pb.h"
#include "trainer/data/open_source.h"
#include "trainer/data/prepare.h"
#include "trainer/data/tokenizer/tokenizer.h"
#include "trainer/inspect/token_text.h"
#include "trainer/metrics/console.h"

namespace conclave {
namespace {

struct Options {
  std::vector<std::string> files;
  std::string tokenizer;
  std::string out;
  data::PrepareOptions prepare;
  std::int64_t vocab_size = 0;
  std::int64_t samples = 3;
  std::int64_t tokens = 80;
};

// A bar in place on a terminal; nothing elsewhere.
class ProgressBar {
 public:
  ProgressBar() : live_(ConsoleStyle::detect(stderr).live) {}
  ~ProgressBar() {
    if (live_) fmt::print(stderr, "\r\x1b[K");
  }
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void show(std::int64_t done, std::int64_t all) const {
    if (!live_) return;
    constexpr std::size_t kWidth = 30;
    const double share = static_cast<double>(done) / static_cast<double>(std::max<std::int64_t>(all, 1));
    const auto filled = static_cast<std::size_t>(share * kWidth);
    fmt::print(stderr, "\r[{}{}] {:3.0f}%  {:.1f} MB/s ", std::string(filled, '#'),
               std::string(kWidth - filled, '.'), 100 * share, static_cast<double>(done) / 1e6 / seconds());
    std::fflush(stderr);
  }
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  bool live_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

int prepare(Options& options) {
  const auto tokenizer = data::open_tokenizer(options.tokenizer);
  const ProgressBar bar;
  options.prepare.progress = [&](std::int64_t done, std::int64_t all) { bar.show(done, all); };
  const data::Prepared done = data::prepare(options.files, *tokenizer, options.out, options.prepare);
  fmt::print(
      "{}.bin, .idx: {} documents, {} tokens from {:.1f} MB ({:.2f} bytes a token), {:.1f} MB/s\n"
      "to train on it: data.tokenizer=pretokenized model.vocab_size={} and {}.bin as a source's path\n",
      options.out, done.documents, done.tokens, static_cast<double>(done.bytes) / 1e6,
      static_cast<double>(done.bytes) / static_cast<double>(done.tokens),
      static_cast<double>(done.bytes) / 1e6 / bar.seconds(), tokenizer->vocab_size(), options.out);
  return 0;
}

// Terminals get text: line breaks and other control characters as escapes.
std::string visible(const std::string& text) {
  std::string result;
  for (const char character : page_text(text)) {
    if (character == '\n') {
      result += "\\n";
    } else if (character == '\t') {
      result += "\\t";
    } else {
      result += character;
    }
  }
  return result;
}

int inspect(Options& options) {
  const auto tokenizer = options.tokenizer.empty() ? nullptr : data::open_tokenizer(options.tokenizer);
  for (const std::string& file : options.files) {
    const data::TokenSource source = data::open_source(file, config::Data::pretokenized);
    fmt::print("{}: {}, {} tokens\n", source.path(), source.format(), source.tokens());
    const std::int64_t length = std::min(options.tokens, source.tokens());
    for (std::int64_t sample = 0; sample < options.samples; ++sample) {
      // Spread evenly, the first at the beginning, the last at the end.
      const std::int64_t first =
          options.samples == 1 ? 0 : (source.tokens() - length) * sample / (options.samples - 1);
      std::vector<std::int32_t> ids(static_cast<std::size_t>(length));
      source.read(first, ids);
      fmt::print("  from token {}: {}\n", first,
                 tokenizer ? visible(tokenizer->decode(ids)) : fmt::format("{}", fmt::join(ids, " ")));
    }
  }
  return 0;
}

int verify(Options& options) {
  CONCLAVE_CHECK(options.vocab_size > 0 || !options.tokenizer.empty(),
                 "data verify needs --vocab-size or --tokenizer to know which ids are valid");
  const std::int64_t vocab_size =
      options.vocab_size > 0 ? options.vocab_size : data::open_tokenizer(options.tokenizer)->vocab_size();
  int faults = 0;
  for (const std::string& file : options.files) {
    try {
      const data::TokenSource source = data::open_source(file, config::Data::pretokenized);
      source.check_token_ids(vocab_size);
      fmt::print("good     {}: {}, {} tokens, all below {}\n", source.path(), source.format(),
                 source.tokens(), vocab_size);
    } catch (const Error& error) {
      ++faults;
      fmt::print("DAMAGED  {}\n", error.what());
    }
  }
  return faults == 0 ? 0 : 1;
}

constexpr const char* kTokenizerHelp = "bytes, a tokenizer.json, or a SentencePiece .model";

}  // namespace

void add_data_command(CLI::App& app, std::function<int()>& selected) {
  CLI::App* group = app.add_subcommand("data", "Turn texts into token files; look into and check such files");
  group->require_subcommand(1);
  const auto options = std::make_shared<Options>();
  const auto add = [&](const char* name, const char* what, const char* files, int (*action)(Options&)) {
    CLI::App* command = group->add_subcommand(name, what);
    command->add_option("FILES", options->files, files)->required();
    command->callback(
        [options, action, &selected] { selected = [options, action] { return action(*options); }; });
    return command;
  };

  CLI::App* command = add("prepare", "Encode texts into a Megatron dataset, PREFIX.idx and PREFIX.bin",
                          "Texts, one document each, or .jsonl files, one document a line", prepare);
  command->add_option("--tokenizer", options->tokenizer, kTokenizerHelp)->required();
  command->add_option("--out", options->out, "PREFIX")->required();
  command->add_option("--json-key", options->prepare.json_key, "Field of a .jsonl line that holds the text")
      ->capture_default_str();
  command->add_option("--end-token", options->prepare.end_token, "Token after every document, such as </s>");
  command->add_option("--threads", options->prepare.threads, "Threads that encode")
      ->default_val(omp_get_max_threads())
      ->check(CLI::Range(1, 1024));
  command->footer("The result doesn't depend on the number of threads.");

  const char* token_files = "Megatron, llm.c or nanoGPT files";
  command = add("inspect", "Show what token files hold", token_files, inspect);
  command->add_option("--tokenizer", options->tokenizer,
                      "Show text in place of ids by: bytes, tokenizer.json, .model");
  command->add_option("--samples", options->samples, "Places to look at, spread over the file")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command->add_option("--tokens", options->tokens, "Tokens to show of each")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);

  command = add("verify", "Check sizes, and that every id is one of the vocabulary", token_files, verify);
  command->add_option("--tokenizer", options->tokenizer, kTokenizerHelp);
  command->add_option("--vocab-size", options->vocab_size, "Ids must be below")->check(CLI::PositiveNumber);
  command->footer("Exit code 0: all are good; 1: one is not.");
}

}  // namespace conclave
