#include "trainer/loaded_model.h"

#include <vector>

#include "configs/load.h"
#include "trainer/trainer.h"

namespace conclave {

config::Experiment checkpoint_experiment(const std::filesystem::path& checkpoint,
                                         std::span<const std::string> overrides) {
  return config::parse_experiment(read_progress(checkpoint).resolved_config,
                                  (checkpoint / "manifest.pb").string() + " (config)", overrides);
}

LanguageModel& LoadedModel::language_model() const {
  auto* language = dynamic_cast<LanguageModel*>(model.get());
  if (language == nullptr) {
    throw ConfigError(
        fmt::format("{} holds a model of model.kind: {}; this needs one of text (kind: language)",
                    checkpoint.string(), config::Model::Kind_Name(experiment.model().kind())));
  }
  return *language;
}

LoadedModel load_model(const std::filesystem::path& checkpoint, const config::Experiment& experiment,
                       Communicator& world) {
  LoadedModel loaded{
      .checkpoint = checkpoint, .experiment = experiment, .device = ComputeDevice(experiment, world)};
  loaded.grid =
      std::make_unique<ProcessGrid>(loaded.device.world, expert_parallel_size(experiment, world.size()));
  loaded.model = make_model(experiment, *loaded.grid);
  std::vector<ShardedTensor> tensors;
  for (Parameter* parameter : loaded.model->parameters()) tensors.push_back(parameter->sharded());
  for (ShardedTensor& tensor : loaded.model->state()) tensors.push_back(std::move(tensor));
  loaded.progress = load_checkpoint(world, checkpoint, tensors, LoadScope::kNamedOnly);
  loaded.device.moved_here(*loaded.model);
  return loaded;
}

}  // namespace conclave
