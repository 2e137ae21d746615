#include "trainer/commands/verify_layout_command.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "comm/mpi/mpi_communicator.h"
#include "configs/load.h"
#include "trainer/shared_error.h"
#include "trainer/signal_thread.h"
#include "trainer/verify_layout.h"
#include "trainer/world.h"

namespace conclave {
namespace {

struct Options {
  std::string file;
  std::vector<std::string> overrides;
  std::vector<int> ranks = {1, 2, 4};
  std::int64_t steps = 3;

  int most_ranks() const { return *std::ranges::max_element(ranks); }
};

config::Experiment load(const Options& options) {
  config::Experiment experiment = config::load_experiment(options.file, options.overrides);
  check_verifiable(experiment);
  return experiment;
}

// Starts the same command again under mpirun, on as many ranks as the largest layout has. Returns only by
// throwing.
[[noreturn]] void start_ranks(const Options& options) {
  const int ranks = options.most_ranks();
  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  setenv("OMP_NUM_THREADS", std::to_string(std::max(1, cores / ranks)).c_str(), /*overwrite=*/0);
  // Ranks that wait must give up the core where ranks outnumber cores.
  if (ranks > cores) setenv("OMPI_MCA_mpi_yield_when_idle", "1", /*overwrite=*/0);

  std::vector<std::string> words = {"mpirun", "--bind-to", "none", "--oversubscribe"};
  if (geteuid() == 0) words.emplace_back("--allow-run-as-root");
  const std::string self = std::filesystem::read_symlink("/proc/self/exe").string();
  for (const std::string& word :
       {std::string("-np"), std::to_string(ranks), self, std::string("verify-layout"), options.file}) {
    words.push_back(word);
  }
  words.insert(words.end(), options.overrides.begin(), options.overrides.end());
  words.push_back(fmt::format("--ranks={}", fmt::join(options.ranks, ",")));
  words.push_back(fmt::format("--steps={}", options.steps));

  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  unblock_stop_signals();  // the mask would go on to mpirun, deaf to Ctrl-C
  execvp(arguments[0], arguments.data());
  throw Error(
      fmt::format("{} ranks need mpirun, which can't be started: {}; install openmpi-bin, or run the command "
                  "under your own launcher on {} ranks",
                  ranks, std::strerror(errno), ranks));
}

ExitCode verify(const Options& options, Communicator& world) {
  const config::Experiment experiment = on_all_ranks(world, [&] { return load(options); });
  if (world.size() < options.most_ranks()) {
    throw ConfigError(
        fmt::format("--ranks asks for a layout of {} ranks, and the launcher started {}; valid: up to {}",
                    options.most_ranks(), world.size(), world.size()));
  }
  const LayoutReport report = verify_layouts(experiment, options.ranks, options.steps, world);
  if (world.rank() == 0) {
    fmt::print("{}", to_text(report));
    std::fflush(stdout);
  }
  return report.passed() ? ExitCode::kDone : ExitCode::kFailure;
}

}  // namespace

void add_verify_layout_command(CLI::App& app, std::function<int()>& selected) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "verify-layout",
      "Train a few steps on each layout of the ranks and compare losses, gradients and updates");
  command->add_option("config", options->file, "The experiment, e.g. configs/tiny.yaml")->required();
  command->add_option("overrides", options->overrides, "key=value, e.g. run.determinism=cross_layout");
  command
      ->add_option("--ranks", options->ranks,
                   "Numbers of ranks, each with every expert_parallel_size that fits it")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command->add_option("--steps", options->steps, "Optimizer steps")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->footer(
      "Compares with one rank alone, and starts the ranks itself where no launcher did. Exit code 0: the "
      "same within\n"
      "what rounding explains, or bit for bit with run.determinism=cross_layout; 1: not.");
  command->callback([options, &selected] {
    selected = [options] {
      if (!MpiRuntime::launched_by_mpirun() && options->most_ranks() > 1) {
        load(*options);  // a fault is reported before anything starts
        start_ranks(*options);
      }
      return static_cast<int>(run_in_world([&](Communicator& world) { return verify(*options, world); }));
    };
  });
}

}  // namespace conclave
