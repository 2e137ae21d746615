#include "trainer/interop/export_model.h"

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <vector>

#include "comm/base/error.h"
#include "trainer/checkpoint/checkpoint_reader.h"
#include "trainer/durable_file.h"
#include "trainer/interop/element_conversion.h"
#include "trainer/interop/model_config.h"
#include "trainer/interop/self_check.h"
#include "trainer/interop/tensor_names.h"
#include "trainer/interop/tokenizer_files.h"
#include "trainer/loaded_model.h"

namespace conclave {
namespace {

constexpr std::size_t kBlockElements = std::size_t{1} << 20;

// A tensor to write and the one it is a piece of.
struct Outgoing {
  const checkpoint::Tensor* source = nullptr;
  TensorPiece piece;
};

// Passes the piece's values on as elements of `dtype`, block by block.
void stream_piece(CheckpointReader& reader, const Outgoing& tensor, DType dtype,
                  const std::function<void(std::span<const std::byte>)>& sink) {
  const std::int64_t row_elements = global_tensor(*tensor.source).shape.row_elements();
  const Range wanted = tensor.piece.elements();
  const Range rows{wanted.begin / row_elements, (wanted.end + row_elements - 1) / row_elements};
  std::vector<float> values(kBlockElements);
  std::vector<std::byte> converted(kBlockElements * size_of(dtype));
  reader.rows(*tensor.source, rows, [&](Range found, std::span<const std::byte> bytes) {
    const Range shared{std::max(wanted.begin, found.begin * row_elements),
                       std::min(wanted.end, found.end * row_elements)};
    bytes = bytes.subspan(static_cast<std::size_t>(shared.begin - found.begin * row_elements) * sizeof(float),
                          static_cast<std::size_t>(shared.size()) * sizeof(float));
    while (!bytes.empty()) {
      const std::size_t count = std::min(kBlockElements, bytes.size() / sizeof(float));
      const std::span<float> block = std::span(values).first(count);
      to_float(bytes.first(count * sizeof(float)), DType::kFloat32, block);
      const std::span<std::byte> result = std::span(converted).first(count * size_of(dtype));
      from_float(block, dtype, result);
      sink(result);
      bytes = bytes.subspan(count * sizeof(float));
    }
  });
}

std::vector<Outgoing> outgoing_tensors(const CheckpointReader& reader, const config::Experiment& experiment,
                                       Architecture architecture) {
  std::vector<Outgoing> tensors;
  for (const TensorNames& names : tensor_names(experiment, architecture)) {
    const checkpoint::Tensor* source = reader.find(names.name);
    CONCLAVE_CHECK(source != nullptr, "{}: there is no tensor {}", reader.path().string(), names.name);
    const GlobalTensor global = global_tensor(*source);
    CONCLAVE_CHECK(global.shape == names.shape && global.dtype == DType::kFloat32,
                   "{}: {} is {} {}, its configuration makes it float32 {}", reader.path().string(),
                   names.name, name_of(global.dtype), global.shape.text(), names.shape.text());
    for (const TensorPiece& piece : names.written()) tensors.push_back({source, piece});
  }
  return tensors;
}

// Cut where the next tensor would make a file too large.
std::vector<std::vector<Outgoing>> files_of(std::vector<Outgoing> tensors, const ExportOptions& options) {
  std::vector<std::vector<Outgoing>> files(1);
  std::int64_t bytes = 0;
  for (Outgoing& tensor : tensors) {
    const auto more = tensor.piece.shape.elements() * static_cast<std::int64_t>(size_of(options.dtype));
    if (bytes > 0 && bytes + more > options.shard_bytes) {
      files.emplace_back();
      bytes = 0;
    }
    bytes += more;
    files.back().push_back(std::move(tensor));
  }
  return files;
}

void write_file(CheckpointReader& reader, const std::filesystem::path& path,
                std::span<const Outgoing> tensors, DType dtype) {
  std::vector<SafetensorsWriter::Entry> entries;
  for (const Outgoing& tensor : tensors) entries.push_back({tensor.piece.name, dtype, tensor.piece.shape});
  // All have one type, so that they are written in the order given.
  SafetensorsWriter writer(path, std::move(entries));
  for (const Outgoing& tensor : tensors)
    stream_piece(reader, tensor, dtype, [&](std::span<const std::byte> bytes) { writer.write(bytes); });
  writer.close_durably();
}

std::string file_name(std::size_t file, std::size_t files) {
  if (files == 1) return "model.safetensors";
  return fmt::format("model-{:05}-of-{:05}.safetensors", file + 1, files);
}

void write_tensors(CheckpointReader& reader, const std::filesystem::path& directory,
                   const std::vector<std::vector<Outgoing>>& files, DType dtype, Export& result) {
  nlohmann::json index;
  for (std::size_t file = 0; file < files.size(); ++file) {
    const std::string name = file_name(file, files.size());
    write_file(reader, directory / name, files[file], dtype);
    for (const Outgoing& tensor : files[file]) {
      index["weight_map"][tensor.piece.name] = name;
      ++result.tensors;
      result.bytes += tensor.piece.shape.elements() * static_cast<std::int64_t>(size_of(dtype));
    }
  }
  result.files = static_cast<std::int64_t>(files.size());
  index["metadata"]["total_size"] = result.bytes;
  if (files.size() > 1)
    replace_file_durably(directory / "model.safetensors.index.json", index.dump(2) + "\n");
}

}  // namespace

Export export_model(const std::filesystem::path& checkpoint, const std::filesystem::path& target,
                    const ExportOptions& options) {
  CONCLAVE_CHECK(!std::filesystem::exists(target), "{} exists: remove it or name another place",
                 target.string());
  const config::Experiment experiment = checkpoint_experiment(checkpoint, {});
  const ExportFit fit = export_fit(experiment);
  if (!fit.architecture) throw ConfigError(fmt::format("{} {}", checkpoint.string(), describe(fit)));

  Export result{.architecture = *fit.architecture};
  CheckpointReader reader(checkpoint);
  const auto files = files_of(outgoing_tensors(reader, experiment, *fit.architecture), options);
  const std::filesystem::path unfinished = target.string() + ".tmp";
  std::filesystem::remove_all(unfinished);
  create_directories_durably(unfinished);
  try {
    write_tensors(reader, unfinished, files, options.dtype, result);
    replace_file_durably(unfinished / "config.json",
                         config_json(experiment, *fit.architecture, options.dtype));
    replace_file_durably(unfinished / "generation_config.json", generation_config_json());
    write_tokenizer_files(experiment, unfinished);
    result.loss = self_check(checkpoint, experiment, unfinished, options.dtype);
    sync_directory(unfinished);
    rename_path(unfinished, target);
    sync_directory(std::filesystem::absolute(target).parent_path());
  } catch (...) {
    std::error_code best_effort;
    std::filesystem::remove_all(unfinished, best_effort);
    throw;
  }
  return result;
}

}  // namespace conclave
