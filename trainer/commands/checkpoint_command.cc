#include "trainer/commands/checkpoint_command.h"

#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <vector>

#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/manifest.h"
#include "trainer/checkpoint/safetensors.h"
#include "trainer/metrics/table.h"

namespace conclave {
namespace {

// "rank_00000.safetensors", or each file with the rows in it.
std::string where_text(const checkpoint::Tensor& tensor) {
  if (tensor.slices_size() == 1) return tensor.slices(0).file();
  std::string text;
  for (const checkpoint::Slice& slice : tensor.slices()) {
    text += fmt::format("{}{} [{}:{}]", text.empty() ? "" : ", ", slice.file(), slice.row_begin(),
                        slice.row_end());
  }
  return text;
}

std::string tensor_table(const checkpoint::Manifest& manifest) {
  std::vector<std::vector<std::string>> rows;
  for (const checkpoint::Tensor& tensor : manifest.tensors()) {
    const GlobalTensor global = global_tensor(tensor);
    rows.push_back({global.name, global.shape.text(), tensor.dtype(),
                    format_count(global.rows() * global.row_bytes()), where_text(tensor)});
  }
  return format_table({"tensor", "shape", "dtype", "bytes", "where"}, rows);
}

}  // namespace

std::string describe_checkpoint(const std::filesystem::path& path) {
  const std::filesystem::path checkpoint = resolve_checkpoint(path);
  const checkpoint::Manifest manifest = read_manifest(checkpoint);
  const checkpoint::Progress& progress = manifest.progress();
  std::int64_t file_bytes = 0;
  for (const checkpoint::File& file : manifest.files()) file_bytes += file.bytes();

  std::string text = fmt::format("{}\n\n", checkpoint.string());
  const auto line = [&](std::string_view key, const std::string& value) {
    text += fmt::format("{:<18}{}\n", key, value);
  };
  line("step", format_count(progress.step()));
  line("tokens", format_count(progress.tokens()));
  line("next sample", format_count(progress.next_sample()));
  line("optimizer updates", format_count(progress.optimizer_updates()));
  line("seed", std::to_string(progress.seed()));
  line("written by",
       fmt::format("Conclave {}, format {}", manifest.conclave_version(), manifest.format_version()));
  line("layout", fmt::format("{} ranks, expert_parallel_size {}", manifest.layout().world_size(),
                             manifest.layout().expert_parallel_size()));
  line("files", fmt::format("{}, {}", manifest.files_size(), format_bytes(static_cast<double>(file_bytes))));
  return text + "\n" + tensor_table(manifest) + "\nconfiguration\n" + manifest.resolved_config();
}

void add_checkpoint_command(CLI::App& app, std::function<int()>& selected) {
  CLI::App* command = app.add_subcommand("checkpoint", "Look into checkpoints");
  command->require_subcommand(1);
  CLI::App* inspect =
      command->add_subcommand("inspect", "Show step, layout, tensors and configuration of a checkpoint");
  const auto path = std::make_shared<std::string>();
  inspect
      ->add_option("PATH", *path,
                   "A run directory, its checkpoints directory, or one checkpoint (step_000500)")
      ->required();
  inspect->callback([path, &selected] {
    selected = [path] {
      fmt::print("{}", describe_checkpoint(*path));
      return 0;
    };
  });
}

}  // namespace conclave
