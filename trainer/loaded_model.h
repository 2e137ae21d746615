// A trained model out of a checkpoint, for evaluation and generation.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>

#include "comm/process_grid.h"
#include "configs/run.pb.h"
#include "layers/model/language_model.h"
#include "layers/model/model.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/compute_device.h"

namespace conclave {

struct LoadedModel {
  std::filesystem::path checkpoint;
  config::Experiment experiment;  // as it was trained, with the overrides applied
  ComputeDevice device;
  TrainingProgress progress = {};
  std::unique_ptr<ProcessGrid> grid = {};
  std::unique_ptr<Model> model = {};  // its parameters in the memory of `device`

  // Throws ConfigError where model.kind is another.
  LanguageModel& language_model() const;
};

// The experiment that a checkpoint was trained with, changed by `overrides` (key=value). Not collective.
config::Experiment checkpoint_experiment(const std::filesystem::path& checkpoint,
                                         std::span<const std::string> overrides);

// Collective. Builds the model of `experiment`, loads the weights of `checkpoint` (a step directory) and the
// state of its routers into it, and moves it to where run.device says.
LoadedModel load_model(const std::filesystem::path& checkpoint, const config::Experiment& experiment,
                       Communicator& world);

}  // namespace conclave
