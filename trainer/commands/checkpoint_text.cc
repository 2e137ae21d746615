#include <fmt/format.h>

#include <vector>

#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/manifest.h"
#include "trainer/commands/checkpoint_command.h"
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

std::string bytes_text(std::int64_t bytes) { return format_bytes(static_cast<double>(bytes)); }

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
  line("files", fmt::format("{}, {}", manifest.files_size(), bytes_text(file_bytes)));
  return text + "\n" + tensor_table(manifest) + "\nconfiguration\n" + manifest.resolved_config();
}

std::string describe(const Verification& verification) {
  std::string text = fmt::format("{}  {}  {}\n", verification.good() ? "good   " : "DAMAGED",
                                 verification.path.string(), bytes_text(verification.bytes));
  for (const std::string& fault : verification.faults) text += fmt::format("  fault: {}\n", fault);
  for (const std::string& note : verification.notes) text += fmt::format("  note: {}\n", note);
  return text;
}

std::string describe(const CheckpointComparison& comparison) {
  std::string text = fmt::format("step {} and step {}\n", comparison.step_a, comparison.step_b);
  if (!comparison.configuration.empty()) {
    std::vector<std::vector<std::string>> rows;
    for (const config::Difference& difference : comparison.configuration) {
      rows.push_back({difference.key, difference.a, difference.b, difference.changes_results ? "yes" : "no"});
    }
    text += "\n" + format_table({"configuration", "a", "b", "changes results"}, rows);
  }
  if (!comparison.configuration_fault.empty()) {
    text += fmt::format("\nthe configurations can't be compared: {}\n", comparison.configuration_fault);
  }
  if (!comparison.different.empty()) {
    std::vector<std::vector<std::string>> rows;
    for (const TensorDifference& difference : comparison.different) {
      rows.push_back(
          {difference.name, difference.shape,
           fmt::format("{} of {}", format_count(difference.different), format_count(difference.elements)),
           fmt::format("{:.3g}", difference.max_absolute), fmt::format("{:.3g}", difference.max_relative)});
    }
    text +=
        "\n" + format_table({"tensor", "shape", "elements that differ", "max |a-b|", "max relative"}, rows);
  }
  if (!comparison.incomparable.empty()) text += "\n";
  for (const std::string& tensor : comparison.incomparable) text += tensor + "\n";
  return text + fmt::format("\n{} tensors are identical, {} differ, {} can't be compared\n",
                            comparison.identical, comparison.different.size(),
                            comparison.incomparable.size());
}

std::string describe(const Pruning& pruning, bool dry_run) {
  const auto word = [&](Pruning::Verdict verdict) {
    switch (verdict) {
      case Pruning::Verdict::kKept:
        return "kept";
      case Pruning::Verdict::kRemoved:
        return dry_run ? "would be removed" : "removed";
      case Pruning::Verdict::kDamagedKept:
        break;
    }
    return "kept though damaged";
  };
  std::vector<std::vector<std::string>> rows;
  for (const Pruning::Entry& entry : pruning.checkpoints) {
    rows.push_back({entry.verification.path.string(), word(entry.verdict)});
  }
  std::string text = format_table({"checkpoint", "verdict"}, rows);
  for (const Pruning::Entry& entry : pruning.checkpoints) {
    for (const std::string& fault : entry.verification.faults) text += fmt::format("fault: {}\n", fault);
  }
  if (pruning.good == 0) text += "no checkpoint is good, so none is removed\n";
  return text;
}

}  // namespace conclave
