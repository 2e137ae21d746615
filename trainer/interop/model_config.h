// config.json and generation_config.json of a directory of Hugging Face files.
#pragma once

#include <filesystem>
#include <string>

#include "comm/base/dtype.h"
#include "configs/run.pb.h"
#include "trainer/interop/architecture.h"

namespace conclave {

// The text of config.json for an experiment that exports as `architecture`; `dtype` is that of the weights.
// router_aux_loss_coef is moe.balance_loss / moe.top_k: their term is top_k times ours (balance_loss.h).
std::string config_json(const config::Experiment& experiment, Architecture architecture, DType dtype);
std::string generation_config_json();

struct ImportedModel {
  Architecture architecture = Architecture::kMixtral;
  config::Experiment experiment;  // resolved; `model` and `moe` are the file's, all else is a default
};

// Reads DIR/config.json. Throws ConfigError naming the file, the key and its value for a model_type that
// Conclave has no model for, a key that is missing or out of range, and every key whose value changes what
// the model computes and that Conclave can't follow (biases, scaled rotary positions, a sliding window that
// is shorter than the context ...).
ImportedModel read_model_config(const std::filesystem::path& directory);

// True for a directory with a config.json: what checkpoint.init_from may be beside a checkpoint.
bool is_hugging_face_directory(const std::filesystem::path& path);

}  // namespace conclave
