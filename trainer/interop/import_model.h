// From Hugging Face files to Conclave.
#pragma once

#include <filesystem>
#include <span>
#include <string>

#include "layers/tensor/sharded_tensor.h"
#include "trainer/interop/model_config.h"
#include "trainer/interop/model_files.h"

namespace conclave {

// Fills the parts of `tensors` (fp32, the model's parameters) that this rank holds; reads nothing else. Not
// collective. Throws Error as ModelFiles does, or for a tensor that `names` lacks.
void read_parameters(const ModelFiles& files, std::span<const TensorNames> names,
                     std::span<const ShardedTensor> tensors);

struct Import {
  Architecture architecture = Architecture::kMixtral;
  std::int64_t tensors = 0;               // of Conclave's
  std::int64_t parameters = 0;            // numbers in them
  std::filesystem::path experiment_file;  // YAML to build an experiment upon
};

// Writes a checkpoint of step 0 with the weights of `directory` and no optimizer state, and beside it
// <target>.yaml with the model's configuration. One process, one block in memory at a time. `target` must not
// exist. Throws Error or ConfigError for what is wrong with the files; nothing is left behind then.
Import import_model(const std::filesystem::path& directory, const std::filesystem::path& target);

}  // namespace conclave
