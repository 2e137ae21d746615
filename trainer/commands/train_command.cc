#include "trainer/commands/train_command.h"

#include <memory>
#include <string>
#include <vector>

#include "configs/load.h"
#include "configs/validate.h"
#include "trainer/shared_error.h"
#include "trainer/train_loop.h"
#include "trainer/world.h"

namespace conclave {

void add_train_command(CLI::App& app, std::function<int()>& selected) {
  struct Options {
    std::string file;
    std::vector<std::string> overrides;
  };
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "train", "Train a model as a YAML file says, or resume it from its newest checkpoint");
  command->add_option("config", options->file, "The experiment, e.g. configs/quickstart.yaml")->required();
  command->add_option("overrides", options->overrides, "key=value, e.g. moe.top_k=1 train.steps=500");
  command->footer(
      "Everything is written below run.dir: metrics.jsonl, tensorboard/, logs/, checkpoints/.\n"
      "SIGTERM, SIGINT, SIGUSR1, SIGUSR2, run.max_wall_time or a file named STOP in run.dir save and stop "
      "(exit 75).");
  command->callback([options, &selected] {
    selected = [options] {
      return static_cast<int>(run_in_world([&](Communicator& world) {
        const config::Experiment experiment =
            on_all_ranks(world, [&] { return config::load_experiment(options->file, options->overrides); });
        config::check_for_world(experiment, world.size());
        return train(experiment, world);
      }));
    };
  });
}

}  // namespace conclave
