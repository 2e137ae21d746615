#include "trainer/interop/self_check.h"

#include <algorithm>
#include <vector>

#include "comm/base/error.h"
#include "comm/self/self_communicator.h"
#include "layers/tensor/philox.h"
#include "trainer/interop/element_conversion.h"
#include "trainer/interop/import_model.h"
#include "trainer/loaded_model.h"

namespace conclave {
namespace {

constexpr std::int64_t kSequences = 2;
constexpr std::int64_t kLongestSequence = 64;

double loss_of(Model& model, const ProcessGrid& grid, const config::Model& shape) {
  const std::int64_t length = std::min(shape.max_seq(), kLongestSequence);
  const RandomStream random(1, "self_check");
  std::vector<std::int32_t> ids(static_cast<std::size_t>(kSequences * length) + 1);
  for (std::size_t i = 0; i < ids.size(); ++i)
    ids[i] = static_cast<std::int32_t>(random.bits(i) % static_cast<std::uint64_t>(shape.vocab_size()));

  Arena arena;
  Context ctx{.arena = &arena, .grid = &grid, .training = false};
  ctx.batch.sequences = kSequences;
  ctx.batch.sequence_length = length;
  ctx.batch.most_sequences = kSequences;
  ctx.batch.global_sequences = kSequences;
  const std::span<const std::int32_t> all(ids);
  const Shape tokens{kSequences * length};
  const ModelLoss loss =
      model.forward(ctx, tensor_view(all.first(ids.size() - 1), tokens), tensor_view(all.subspan(1), tokens));
  return loss.loss_sum / static_cast<double>(loss.targets);
}

void round_to(DType dtype, std::span<float> values) {
  std::vector<std::byte> rounded(values.size() * size_of(dtype));
  from_float(values, dtype, rounded);
  to_float(rounded, dtype, values);
}

// On the host, as the loss of the files that it is compared with, whatever the model was trained on.
double loss_of_checkpoint(const std::filesystem::path& checkpoint, config::Experiment experiment,
                          Communicator& world, DType dtype) {
  experiment.mutable_run()->set_device(config::Run::cpu);
  const LoadedModel loaded = load_model(checkpoint, experiment, world);
  for (Parameter* parameter : loaded.model->parameters())
    round_to(dtype, parameter->mutable_value().values<float>());
  return loss_of(*loaded.model, *loaded.grid, experiment.model());
}

double loss_of_files(const std::filesystem::path& directory, Communicator& world) {
  const ImportedModel imported = read_model_config(directory);
  const ModelFiles files(directory);
  const std::vector<TensorNames> names = tensor_names(imported.experiment, imported.architecture);
  files.check_complete(names);
  const ProcessGrid grid(world, 1);
  const std::unique_ptr<Model> model = make_model(imported.experiment, grid);
  std::vector<ShardedTensor> tensors;
  for (Parameter* parameter : model->parameters()) tensors.push_back(parameter->sharded());
  read_parameters(files, names, tensors);
  return loss_of(*model, grid, imported.experiment.model());
}

}  // namespace

double self_check(const std::filesystem::path& checkpoint, const config::Experiment& experiment,
                  const std::filesystem::path& directory, DType dtype) {
  const auto world = make_self_communicator();
  const double expected = loss_of_checkpoint(checkpoint, experiment, *world, dtype);
  const double found = loss_of_files(directory, *world);
  CONCLAVE_CHECK(found == expected,
                 "the exported files were read back and give a loss of {} on a batch that {} gives {}: they "
                 "don't hold the same model, and were removed",
                 found, checkpoint.string(), expected);
  return found;
}

}  // namespace conclave
