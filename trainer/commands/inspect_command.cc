#include "trainer/commands/inspect_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "configs/validate.h"
#include "trainer/evaluation_report.h"
#include "trainer/inspect/inspect_json.h"
#include "trainer/inspect/inspect_page.h"
#include "trainer/inspect/layer_summary.h"
#include "trainer/inspect/routing_record.h"
#include "trainer/inspect/token_text.h"
#include "trainer/inspect/trace_tables.h"
#include "trainer/inspect/trace_text.h"
#include "trainer/metrics/console.h"
#include "trainer/metrics/table.h"
#include "trainer/model_tokenizer.h"
#include "trainer/shared_error.h"
#include "trainer/world.h"

namespace conclave {
namespace {

struct Options {
  std::string checkpoint;
  std::vector<std::string> overrides;
  std::vector<std::string> texts;
  std::string routing;
  std::string tokenizer;
  std::string html;
  std::vector<std::int64_t> layers;
  std::int64_t max_tokens = 1024;
  bool summary = false;
  bool json = false;
};

// A trace and what it is of.
struct Subject {
  std::string title;
  std::vector<std::pair<std::string, std::string>> facts;
  RoutingTrace trace;
  std::int64_t shown_tokens = 0;  // of the trace, from its start; 0: all
  LoadEvolution evolution;
};

void check(const Options& options) {
  if (options.routing.empty() && (options.checkpoint.empty() || options.texts.empty())) {
    throw ConfigError(
        "nothing to look into: give a checkpoint and --text FILE, or records of a training run with "
        "--routing");
  }
  if (!options.routing.empty() && (!options.checkpoint.empty() || !options.texts.empty())) {
    throw ConfigError(
        "--routing shows what a training run recorded: give no checkpoint and no --text with it");
  }
}

// Keeps the layers of these blocks, in order; all if none is named.
void choose_layers(RoutingTrace& trace, const std::vector<std::int64_t>& blocks) {
  std::string known;
  for (const LayerRouting& layer : trace.layers)
    known += fmt::format("{}{}", known.empty() ? "" : ", ", layer.block);
  for (const std::int64_t block : blocks) {
    if (std::ranges::find(trace.layers, block, &LayerRouting::block) == trace.layers.end())
      throw ConfigError(fmt::format("--layers names {}; the MoE layers are {}", block, known));
  }
  if (blocks.empty()) return;
  std::erase_if(trace.layers, [&](const LayerRouting& layer) {
    return std::ranges::find(blocks, layer.block) == blocks.end();
  });
}

// The experiment of a checkpoint, with the overrides and the tokenizer that --tokenizer names.
config::Experiment inspected_experiment(const Options& options, const std::filesystem::path& checkpoint) {
  std::vector<std::string> overrides = options.overrides;
  if (!options.tokenizer.empty()) overrides.push_back("data.tokenizer_file=" + options.tokenizer);
  return checkpoint_experiment(checkpoint, overrides);
}

std::string amount_text(const InspectedText& text) {
  const auto read = static_cast<std::int64_t>(text.tokens.size());
  if (!text.file_tokens) return fmt::format("the first {} tokens", format_count(read));
  if (read == *text.file_tokens) return fmt::format("{} tokens", format_count(read));
  return fmt::format("the first {} of {} tokens", format_count(read), format_count(*text.file_tokens));
}

// Collective. Loads the model, runs the texts through it.
Subject of_texts(const Options& options, Communicator& world) {
  const auto checkpoint = on_all_ranks(world, [&] { return resolve_checkpoint(options.checkpoint); });
  const auto experiment = on_all_ranks(world, [&] { return inspected_experiment(options, checkpoint); });
  const auto tokenizer = on_all_ranks(world, [&] { return model_tokenizer(experiment); });
  const auto texts = on_all_ranks(world, [&] {
    std::vector<InspectedText> read;
    for (const std::string& text : options.texts)
      read.push_back(read_inspected_text(text, experiment, tokenizer.get(), options.max_tokens));
    return read;
  });
  config::check_for_world(experiment, world.size());
  const LoadedModel loaded = load_model(checkpoint, experiment, world);
  TracedTexts traced = trace_texts(loaded, texts);

  Subject subject;
  subject.title = fmt::format("{}, step {}", checkpoint.string(), loaded.progress.step);
  for (const InspectedText& text : texts) subject.facts.emplace_back(text.name, amount_text(text));
  if (traced.targets > 0 && experiment.train().objective() == config::Train::next_token) {
    const double loss = traced.loss_sum / static_cast<double>(traced.targets);
    subject.facts.emplace_back(
        tokens_are_bytes(experiment) ? "bits per byte" : "nats a token",
        fmt::format("{:.3f}", tokens_are_bytes(experiment) ? bits_per_byte(loss) : loss));
  }
  subject.trace = std::move(traced.trace);
  if (tokenizer != nullptr && !subject.trace.tokens_are_bytes) look_up_tokens(*tokenizer, subject.trace);
  choose_layers(subject.trace, options.layers);
  return subject;
}

// What the recorded ids stand for, by the tokenizer that the run named or by another.
void look_up_recorded_tokens(const Options& options, Subject& subject) {
  if (subject.trace.tokens_are_bytes) {
    if (!options.tokenizer.empty())
      throw ConfigError("--tokenizer: the recorded tokens are bytes, which need none");
    return;
  }
  const std::string& recorded = subject.trace.tokenizer_file;
  std::error_code ignored;  // what can't be looked at isn't there
  if (!options.tokenizer.empty()) {
    look_up_tokens(*data::open_tokenizer(options.tokenizer), subject.trace);
  } else if (std::filesystem::exists(recorded, ignored)) {
    look_up_tokens(*data::open_tokenizer(recorded), subject.trace);
  } else if (!recorded.empty()) {
    subject.facts.emplace_back(
        "tokens", fmt::format("ids; {}, which made them, isn't there: --tokenizer names it", recorded));
  }
}

// The last record, and the loads of all.
Subject of_records(const Options& options) {
  Subject subject;
  subject.shown_tokens = options.max_tokens;
  for (const std::filesystem::path& path : find_routing_records(options.routing)) {
    RoutingRecord record = read_routing_record(path);
    choose_layers(record.trace, options.layers);
    const std::vector<LayerSummary> summaries = summarise(record.trace);
    CONCLAVE_CHECK(subject.evolution.loads.empty() || subject.evolution.loads.size() == summaries.size(),
                   "{} has {} MoE layers, the records before it {}: they are of different models",
                   path.string(), summaries.size(), subject.evolution.loads.size());
    subject.evolution.steps.push_back(record.step);
    subject.evolution.loads.resize(summaries.size());
    for (std::size_t i = 0; i < summaries.size(); ++i)
      subject.evolution.loads[i].push_back(summaries[i].load);
    subject.title = fmt::format("{}, training step {}", path.string(), record.step);
    subject.facts = {
        {"global batch", fmt::format("{} sequences of {} tokens",
                                     record.trace.size() / record.sequence_length, record.sequence_length)}};
    subject.trace = std::move(record.trace);
  }
  look_up_recorded_tokens(options, subject);
  return subject;
}

void show(const Options& options, const Subject& subject) {
  const std::vector<LayerSummary> summaries = summarise(subject.trace);
  if (!options.html.empty()) {
    html::write(options.html, inspect_page({.title = subject.title,
                                            .facts = subject.facts,
                                            .trace = subject.trace,
                                            .summaries = summaries,
                                            .shown_tokens = subject.shown_tokens,
                                            .evolution = subject.evolution}));
  }
  if (options.json) {
    fmt::print("{}\n", inspect_json(subject.title, subject.trace, summaries, subject.shown_tokens));
    return;
  }
  std::string text = subject.title + "\n";
  for (const auto& [name, value] : subject.facts) text += fmt::format("{}: {}\n", name, value);
  if (!options.summary && options.html.empty()) {
    const ConsoleStyle console = ConsoleStyle::detect(stdout);
    text += "\n" + token_table(subject.trace, {.colour = console.colour,
                                               .columns = console.live ? console.columns : 0,
                                               .tokens = subject.shown_tokens});
  }
  text += "\n" + summary_tables(subject.trace, summaries);
  if (subject.evolution.steps.size() > 1) text += "\n" + evolution_table(subject.evolution, summaries);
  if (!options.html.empty()) text += fmt::format("\nwrote {}\n", options.html);
  std::fwrite(text.data(), 1, text.size(), stdout);
}

ExitCode inspect(const Options& options, Communicator& world) {
  check(options);
  const Subject subject = options.routing.empty() ? of_texts(options, world)
                                                  : on_all_ranks(world, [&] { return of_records(options); });
  // Rank 0 alone may fail to write.
  on_all_ranks(world, [&] {
    if (world.rank() == 0) show(options, subject);
    return true;
  });
  std::fflush(stdout);
  return ExitCode::kDone;
}

}  // namespace

void add_inspect_command(CLI::App& app, std::function<int()>& selected) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("inspect", "Show which experts each token of a text goes to");
  command->add_option("checkpoint", options->checkpoint,
                      "A run directory (its newest checkpoint) or a checkpoint");
  command->add_option(
      "overrides", options->overrides,
      "key=value over the configuration that is stored in the checkpoint, e.g. run.device=cpu");
  command
      ->add_option("--text", options->texts,
                   "A text to run through the model, FILE or NAME=FILE; several are compared")
      ->allow_extra_args(false);
  command->add_option("--routing", options->routing,
                      "In place of both: records of a training run (log.routing), a file or their directory");
  command->add_option("--tokenizer", options->tokenizer,
                      "In place of data.tokenizer_file: what texts are encoded and tokens shown with");
  command->add_option("--html", options->html,
                      "Write a page to read and click through, in place of the tokens");
  command
      ->add_option("--layers", options->layers, "Blocks of the MoE layers to show, e.g. 0,2; all if left out")
      ->delimiter(',')
      ->allow_extra_args(false);
  command
      ->add_option("--max-tokens", options->max_tokens,
                   "Tokens of each text to run, or of a record to show; 0: all")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  command->add_flag("--summary", options->summary, "Leave the tokens out");
  command->add_flag("--json", options->json, "Write JSON in place of tables");
  command->footer(
      "A line a token: for each layer the experts by weight, e3 .62 e7 .38; +12 .10 are twelve more that "
      "have .10\n"
      "together. Nothing is dropped here, whatever moe.capacity_factor says.");
  command->callback([options, &selected] {
    selected = [options] {
      return static_cast<int>(run_in_world([&](Communicator& world) { return inspect(*options, world); }));
    };
  });
}

}  // namespace conclave
