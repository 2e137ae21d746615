#include "trainer/interop/import_model.h"

#include <algorithm>
#include <array>
#include <sstream>
#include <vector>

#include "comm/base/error.h"
#include "configs/show.h"
#include "trainer/checkpoint/checkpoint_paths.h"
#include "trainer/checkpoint/commit.h"
#include "trainer/checkpoint/write_shards.h"
#include "trainer/durable_file.h"

namespace conclave {
namespace {

constexpr std::int64_t kBlockElements = std::int64_t{1} << 20;

std::vector<GlobalTensor> global_tensors_of(std::span<const TensorNames> names) {
  std::vector<GlobalTensor> tensors;
  for (const TensorNames& tensor : names)
    tensors.push_back({tensor.name, DType::kFloat32, tensor.shape, tensor.sharding, 1});
  return tensors;
}

// The rows of a piece as fp32, block by block.
void stream_rows(const ModelFiles& files, const TensorNames& tensor, Range rows, const ByteSink& sink) {
  const std::int64_t row_elements = tensor.shape.row_elements();
  const Range all{rows.begin * row_elements, rows.end * row_elements};
  std::vector<float> values;
  for (Range block{all.begin, all.begin}; block.end < all.end; block.begin = block.end) {
    block.end = std::min(block.begin + kBlockElements, all.end);
    values.resize(static_cast<std::size_t>(block.size()));
    files.read(std::array{ModelFiles::Wanted{&tensor, block, values}});
    sink(std::as_bytes(std::span<const float>(values)));
  }
}

// The sections `model` and `moe` of a resolved experiment.
std::string model_sections(const std::string& yaml) {
  std::istringstream lines(yaml);
  std::string text;
  bool inside = false;
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(' ')) inside = line == "model:" || line == "moe:";
    if (inside) text += line + "\n";
  }
  return text;
}

std::string experiment_text(const ImportedModel& imported, const std::filesystem::path& directory,
                            const std::filesystem::path& target) {
  const config::Data& data = imported.experiment.data();
  std::string text = fmt::format(
      "# The model of {}, to build an experiment upon: `base: {}`, then data, optim, schedule and train.\n"
      "# It starts from the imported weights.\n{}",
      directory.string(), target.filename().string() + ".yaml",
      model_sections(config::to_yaml(imported.experiment)));
  text += fmt::format("data:\n  tokenizer: {}\n", config::Data::Tokenizer_Name(data.tokenizer()));
  if (!data.tokenizer_file().empty())
    text += fmt::format("  tokenizer_file: \"{}\"\n", data.tokenizer_file());
  return text + fmt::format("checkpoint:\n  init_from: \"{}\"\n",
                            std::filesystem::absolute(target).lexically_normal().string());
}

}  // namespace

void read_parameters(const ModelFiles& files, std::span<const TensorNames> names,
                     std::span<const ShardedTensor> tensors) {
  std::vector<ModelFiles::Wanted> wanted;
  for (const ShardedTensor& tensor : tensors) {
    const auto found = std::ranges::find(names, tensor.name, &TensorNames::name);
    CONCLAVE_CHECK(found != names.end(), "{}: nothing there is {}", files.directory().string(), tensor.name);
    CONCLAVE_CHECK(found->shape == tensor.global_shape,
                   "{}: {} has shape {} there, the experiment makes it {}", files.directory().string(),
                   tensor.name, found->shape.text(), tensor.global_shape.text());
    const Range rows = tensor.held_rows();
    const std::int64_t row_elements = tensor.global_shape.row_elements();
    wanted.push_back(
        {&*found, {rows.begin * row_elements, rows.end * row_elements}, tensor.local.values<float>()});
  }
  files.read(wanted);
}

Import import_model(const std::filesystem::path& directory, const std::filesystem::path& target) {
  CONCLAVE_CHECK(!std::filesystem::exists(target), "{} exists: remove it or name another place",
                 target.string());
  const ImportedModel imported = read_model_config(directory);
  const ModelFiles files(directory);
  const std::vector<TensorNames> names = tensor_names(imported.experiment, imported.architecture);
  files.check_complete(names);
  const std::vector<GlobalTensor> tensors = global_tensors_of(names);

  TrainingProgress progress;
  progress.seed = imported.experiment.run().seed();
  progress.resolved_config = config::to_yaml(imported.experiment);
  const Layout layout{1, 1};
  const std::filesystem::path unfinished = unfinished_path(target);
  make_unfinished(target);
  try {
    const auto plan = plan_shards(tensors, layout);
    const std::vector<checkpoint::RankPieces> written{
        write_shard(unfinished, progress.step, /*rank=*/0, tensors, plan.front(),
                    [&](const ShardPiece& piece, const ByteSink& sink) {
                      stream_rows(files, names[piece.tensor], piece.rows, sink);
                    })};
    commit(target, assemble_manifest(progress, layout, tensors, written));
  } catch (...) {
    std::error_code best_effort;
    std::filesystem::remove_all(unfinished, best_effort);
    throw;
  }

  Import result;
  result.architecture = imported.architecture;
  result.tensors = static_cast<std::int64_t>(names.size());
  for (const TensorNames& tensor : names) result.parameters += tensor.shape.elements();
  result.experiment_file = target.string() + ".yaml";
  replace_file_durably(result.experiment_file, experiment_text(imported, directory, target));
  return result;
}

}  // namespace conclave
