#include "trainer/commands/checkpoint_command.h"

#include <fmt/format.h>

#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "comm/base/error.h"
#include "comm/process_grid.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/manifest.h"
#include "trainer/checkpoint/rewrite_checkpoint.h"
#include "trainer/interop/export_model.h"
#include "trainer/interop/import_model.h"
#include "trainer/metrics/table.h"

namespace conclave {
namespace {

constexpr const char* kAnyPath =
    "A run directory, its checkpoints directory, or one checkpoint (step_000500)";
constexpr const char* kOnePath = "A checkpoint (step_000500), or a run directory: its newest checkpoint";

// Where a command finds its words; CLI11 fills them in before the action runs.
struct Options {
  std::string path;
  std::string second_path;
  std::int64_t keep = 0;
  bool dry_run = false;
  int ranks = 0;
  int expert_parallel_size = 0;  // 0: as far as the ranks allow
  bool all = false;
  bool force = false;
  std::string format;
  std::string dtype;
  double shard_gigabytes = 0;
};

using Action = int (*)(const Options&);

int inspect(const Options& options) {
  fmt::print("{}", describe_checkpoint(options.path));
  return 0;
}

// One checkpoint, or all of a run.
std::vector<std::filesystem::path> checkpoints_meant(const std::filesystem::path& path) {
  std::vector<std::filesystem::path> all = find_checkpoints(path);
  if (all.empty()) all = find_checkpoints_in(path);
  if (all.empty()) all.push_back(resolve_checkpoint(path));
  return all;
}

int verify(const Options& options) {
  bool good = true;
  for (const std::filesystem::path& checkpoint : checkpoints_meant(options.path)) {
    const Verification verification = verify_checkpoint(checkpoint);
    fmt::print("{}", describe(verification));
    std::fflush(stdout);
    good = good && verification.good();
  }
  return good ? 0 : 1;
}

int diff(const Options& options) {
  const CheckpointComparison comparison =
      compare_checkpoints(resolve_checkpoint(options.path), resolve_checkpoint(options.second_path));
  fmt::print("{}", describe(comparison));
  return comparison.same_tensors() ? 0 : 1;
}

int prune(const Options& options) {
  CONCLAVE_CHECK(!find_checkpoints(options.path).empty(),
                 "{}: no checkpoint there; prune takes a run directory, the one with checkpoints/ in it",
                 options.path);
  const Pruning pruning = prune_checkpoints(options.path, options.keep, options.dry_run);
  fmt::print("{}", describe(pruning, options.dry_run));
  return pruning.good > 0 ? 0 : 1;
}

// As `parallel.expert_parallel_size: auto` would choose.
int automatic_size(const std::filesystem::path& checkpoint, int ranks) {
  const checkpoint::Manifest manifest = read_manifest(checkpoint);
  for (const checkpoint::Tensor& tensor : manifest.tensors()) {
    if (tensor.sharding() == checkpoint::SHARDING_EXPERT)
      return automatic_expert_parallel_size(ranks, tensor.shape(0));
  }
  return 1;
}

int reshard(const Options& options) {
  const std::filesystem::path source = resolve_checkpoint(options.path);
  const Layout layout{options.ranks, options.expert_parallel_size > 0
                                         ? options.expert_parallel_size
                                         : automatic_size(source, options.ranks)};
  reshard_checkpoint(source, options.second_path, layout);
  fmt::print("{}: as {} ranks with expert_parallel_size {} would have written {}\n", options.second_path,
             layout.ranks, layout.expert_parallel_size, source.string());
  return 0;
}

int consolidate(const Options& options) {
  CONCLAVE_CHECK(options.force || !std::filesystem::exists(options.second_path),
                 "{} exists: remove it, name another file, or say --force", options.second_path);
  const std::filesystem::path source = resolve_checkpoint(options.path);
  const Consolidation done = consolidate_checkpoint(source, options.second_path, options.all);
  fmt::print("{}: {} tensors of {}, {}\n", options.second_path, done.tensors, source.string(),
             format_bytes(static_cast<double>(done.bytes)));
  return 0;
}

// The element types of exported files, as --dtype names them.
const std::map<std::string, DType>& export_types() {
  static const std::map<std::string, DType> types{
      {"fp32", DType::kFloat32}, {"bf16", DType::kBFloat16}, {"fp16", DType::kFloat16}};
  return types;
}

int export_to_hugging_face(const Options& options) {
  const std::filesystem::path source = resolve_checkpoint(options.path);
  const Export done = export_model(source, options.second_path,
                                   {.dtype = export_types().at(options.dtype),
                                    .shard_bytes = static_cast<std::int64_t>(options.shard_gigabytes * 1e9)});
  fmt::print("{}: {} as {}, {} tensors of {} in {} file{}; read back, a batch gives the same loss, {:.6f}\n",
             options.second_path, source.string(), model_type(done.architecture), done.tensors,
             format_bytes(static_cast<double>(done.bytes)), done.files, done.files == 1 ? "" : "s",
             done.loss);
  return 0;
}

int import_from_hugging_face(const Options& options) {
  const Import done = import_model(options.path, options.second_path);
  fmt::print(
      "{}: {} ({}), {} tensors, {} parameters\nto train from it: `base: {}` in a YAML file with data, "
      "optim, schedule and train\n",
      options.second_path, options.path, model_type(done.architecture), done.tensors, done.parameters,
      done.experiment_file.string());
  return 0;
}

void add_interop_options(CLI::App& export_command, CLI::App& import_command, Options& options) {
  export_command.add_option("--format", options.format, "What to write")
      ->required()
      ->check(CLI::IsMember({"hf"}));
  export_command.add_option("--out", options.second_path, "The directory to make")->required();
  export_command.add_option("--dtype", options.dtype, "Element type of the files")
      ->default_val("fp32")
      ->check(CLI::IsMember(export_types()));
  export_command.add_option("--shard-gigabytes", options.shard_gigabytes, "Largest size of one file")
      ->default_val(5.0)
      ->check(CLI::PositiveNumber);
  export_command.footer(
      "Which model it becomes (mixtral, qwen3_moe, olmoe) or why none: the last line of `config show`.\n"
      "The files are read back, and a batch must give the same loss to the last bit.");
  import_command.add_option("--out", options.second_path, "The checkpoint to make, a directory")->required();
  import_command.footer(
      "DIR has config.json and safetensors, one file or many, fp32, bf16 or fp16, of a Mixtral, Qwen3-MoE "
      "or\n"
      "OLMoE model. checkpoint.init_from takes the checkpoint, or DIR itself.");
}

}  // namespace

void add_checkpoint_command(CLI::App& app, std::function<int()>& selected) {
  CLI::App* group =
      app.add_subcommand("checkpoint", "Look into checkpoints, check, compare, prune and convert them");
  group->require_subcommand(1);
  const auto options = std::make_shared<Options>();
  const auto add = [&](const char* name, const char* what, const char* path, Action action) {
    CLI::App* command = group->add_subcommand(name, what);
    command->add_option("PATH", options->path, path)->required();
    command->callback(
        [options, action, &selected] { selected = [options, action] { return action(*options); }; });
    return command;
  };

  add("inspect", "Show step, layout, tensors and configuration of a checkpoint", kAnyPath, inspect);

  add("verify", "Read every byte and name every fault; of a run directory, of all its checkpoints", kAnyPath,
      verify)
      ->footer("Exit code 0: all are good; 1: one is damaged.");

  CLI::App* command =
      add("diff", "In which tensors and settings two checkpoints differ, and by how much", kOnePath, diff);
  command->add_option("OTHER", options->second_path, kOnePath)->required();
  command->footer("Exit code 0: all tensors are the same, bit for bit; 1: some are not.");

  command = add("prune", "Remove all but the newest good checkpoints of a run that is not running",
                "A run directory", prune);
  command->add_option("--keep", options->keep, "Good checkpoints to keep, at least 1")
      ->required()
      ->check(CLI::PositiveNumber);
  command->add_flag("--dry-run", options->dry_run, "Only say what would be removed");
  command->footer(
      "Every byte is read first: a damaged checkpoint counts for nothing, and the only good one is never "
      "removed.\n"
      "Exit code 1: none is good, and none was removed.");

  command = add("reshard", "Write a checkpoint as another number of ranks would have", kOnePath, reshard);
  command
      ->add_option("TARGET", options->second_path,
                   "The directory to make, for example other/checkpoints/step_000500")
      ->required();
  command->add_option("--ranks", options->ranks, "Number of ranks")->required()->check(CLI::PositiveNumber);
  command
      ->add_option("--expert-parallel-size", options->expert_parallel_size,
                   "Ranks that share one copy of the experts; divides the ranks (default: as many as can)")
      ->check(CLI::PositiveNumber);
  command->footer("A run loads checkpoints of any layout by itself; this moves the work before the job.");

  command = add("consolidate", "Write the model as one safetensors file", kOnePath, consolidate);
  command->add_option("FILE", options->second_path, "The file to make, for example model.safetensors")
      ->required();
  command->add_flag("--all", options->all, "Optimizer state too");
  command->add_flag("--force", options->force, "Replace the file if it exists");
  command->footer("Its metadata holds step, tokens, seed, version and the configuration.");

  CLI::App* export_command =
      add("export", "Write the model as Hugging Face files", kOnePath, export_to_hugging_face);
  CLI::App* import_command = add("import", "Make a checkpoint of a Hugging Face model", "Its directory, DIR",
                                 import_from_hugging_face);
  add_interop_options(*export_command, *import_command, *options);
}

}  // namespace conclave
