#include "trainer/interop/initial_weights.h"

#include <array>
#include <set>
#include <string_view>
#include <vector>

#include "configs/resolve.h"
#include "configs/show.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/interop/import_model.h"
#include "trainer/loaded_model.h"
#include "trainer/shared_error.h"

namespace conclave {
namespace {

// What a trained model computes; all else (capacity, losses, noise, initial weights) is the new run's own.
constexpr std::array<std::string_view, 25> kModelKeys{
    "model.kind",       "model.layers",       "model.d_model",   "model.heads",    "model.kv_heads",
    "model.head_dim",   "model.rope_theta",   "model.norm_eps",  "model.qk_norm",  "model.tie_embeddings",
    "model.vocab_size", "model.causal",       "moe.experts",     "moe.top_k",      "moe.d_ff",
    "moe.every",        "moe.shared_experts", "moe.shared_gate", "moe.router",     "moe.normalize_top_k",
    "moe.routed_scale", "moe.expert_groups",  "moe.top_groups",  "moe.activation", "moe.layers"};

bool has_dense_blocks(const config::Experiment& experiment) {
  return experiment.moe().experts() == 0 || experiment.moe().every() > 1;
}

bool says_what_is_computed(const std::string& key, const config::Experiment& experiment) {
  if (key == "model.qk_norm_over") return experiment.model().qk_norm();
  if (key == "model.d_ff" || key == "model.activation") return has_dense_blocks(experiment);
  // "moe.layers.0.top_k" is a part of moe.layers.
  return std::ranges::any_of(kModelKeys, [&](std::string_view known) {
    return key == known || key.starts_with(std::string(known) + ".");
  });
}

void check_same_model(const config::Experiment& theirs, const config::Experiment& ours,
                      const std::string& path) {
  if (ours.checkpoint().allow_changes()) return;
  std::string changes;
  for (const config::Difference& difference : config::differences(theirs, ours)) {
    if (says_what_is_computed(difference.key, ours))
      changes += fmt::format("\n  {}: {} there, {} here", difference.key, difference.a, difference.b);
  }
  if (changes.empty()) return;
  throw ConfigError(fmt::format(
      "checkpoint.init_from: {} holds a model with other values of keys that say what is computed:{}\nset "
      "them "
      "as they are there, or start all the same, where shapes allow it, with checkpoint.allow_changes=true",
      path, changes));
}

std::string load_from_files(Trainer& trainer, const std::string& path) {
  std::vector<ShardedTensor> tensors;
  for (Parameter* parameter : trainer.model.parameters()) tensors.push_back(parameter->sharded());
  const auto type = on_all_ranks(trainer.world, [&] {
    const ImportedModel imported = read_model_config(path);
    check_same_model(imported.experiment, trainer.experiment, path);
    const ModelFiles files(path);
    const std::vector<TensorNames> names = tensor_names(imported.experiment, imported.architecture);
    files.check_complete(names);
    read_parameters(files, names, tensors);
    return std::string(model_type(imported.architecture));
  });
  return fmt::format("starts from the weights of {} ({})", path, type);
}

std::string load_from_checkpoint(Trainer& trainer, const std::string& path) {
  const std::filesystem::path checkpoint = on_all_ranks(trainer.world, [&] {
    const std::filesystem::path found = resolve_checkpoint(path);
    check_same_model(checkpoint_experiment(found, {}), trainer.experiment, path);
    return found;
  });
  std::vector<ShardedTensor> tensors;
  for (Parameter* parameter : trainer.model.parameters()) tensors.push_back(parameter->sharded());
  for (ShardedTensor& tensor : trainer.model.state()) tensors.push_back(std::move(tensor));
  const TrainingProgress progress =
      load_checkpoint(trainer.world, checkpoint, tensors, LoadScope::kNamedOnly);
  return fmt::format("starts from the weights of {}, step {}", checkpoint.string(), progress.step);
}

}  // namespace

std::string load_initial_weights(Trainer& trainer) {
  const std::string& path = trainer.experiment.checkpoint().init_from();
  if (path.empty()) return "";
  return is_hugging_face_directory(path) ? load_from_files(trainer, path)
                                         : load_from_checkpoint(trainer, path);
}

}  // namespace conclave
