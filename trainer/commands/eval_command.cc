#include "trainer/commands/eval_command.h"

#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "configs/resolve.h"
#include "configs/validate.h"
#include "trainer/compute_device.h"
#include "trainer/compute_format.h"
#include "trainer/evaluate.h"
#include "trainer/evaluation_report.h"
#include "trainer/loaded_model.h"
#include "trainer/shared_error.h"
#include "trainer/world.h"

namespace conclave {
namespace {

struct Options {
  std::string path;
  std::vector<std::string> overrides;
};

ExitCode evaluate_checkpoint(const std::filesystem::path& checkpoint, const config::Experiment& experiment,
                             Communicator& world) {
  const LoadedModel loaded = load_model(checkpoint, experiment, world);
  const auto dataset = on_all_ranks(world, [&] { return data::open_data(experiment); });
  const cuda::Engine* gpu = loaded.device.gpu.get();
  Arena arena(loaded.device.memory());
  data::MicroBatch batch;
  const Evaluation evaluation = evaluate({.model = *loaded.model,
                                          .dataset = *dataset,
                                          .grid = *loaded.grid,
                                          .arena = arena,
                                          .batch = batch,
                                          .compute = compute_format(experiment, world, gpu != nullptr),
                                          .gpu = loaded.device.gpu.get(),
                                          .micro_batch = experiment.train().micro_batch(),
                                          .max_sequences = 0});
  if (world.rank() == 0) {
    fmt::print(
        "{}, step {}{}\n{}\n{}\n{}", checkpoint.string(), loaded.progress.step,
        gpu != nullptr ? ", on " + describe_device(gpu) : "",
        config::leaks_future(experiment)
            ? "future leak: tokens choose experts by the tokens after them, so this loss is no fair one\n"
            : "",
        held_out_table(evaluation, experiment), expert_tables(evaluation, *loaded.model));
    std::fflush(stdout);
  }
  return ExitCode::kDone;
}

}  // namespace

void add_eval_command(CLI::App& app, std::function<int()>& selected) {
  const auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("eval", "Held-out loss by source, and which experts take which source's tokens");
  command->add_option("checkpoint", options->path, "A run directory (its newest checkpoint) or a checkpoint")
      ->required();
  command->add_option("overrides", options->overrides,
                      "key=value over the configuration that is stored in the checkpoint, e.g. other data");
  command->callback([options, &selected] {
    selected = [options] {
      return static_cast<int>(run_in_world([&](Communicator& world) {
        const auto checkpoint = on_all_ranks(world, [&] { return resolve_checkpoint(options->path); });
        const auto experiment =
            on_all_ranks(world, [&] { return checkpoint_experiment(checkpoint, options->overrides); });
        config::check_for_world(experiment, world.size());
        return evaluate_checkpoint(checkpoint, experiment, world);
      }));
    };
  });
}

}  // namespace conclave
