// The entry point, and the one place where an error of this rank alone ends the whole job.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <functional>
#include <string>

#include "comm/mpi/mpi_communicator.h"
#include "trainer/commands/bench_command.h"
#include "trainer/commands/checkpoint_command.h"
#include "trainer/commands/config_command.h"
#include "trainer/commands/data_command.h"
#include "trainer/commands/doctor_command.h"
#include "trainer/commands/eval_command.h"
#include "trainer/commands/generate_command.h"
#include "trainer/commands/inspect_command.h"
#include "trainer/commands/report_command.h"
#include "trainer/commands/tokenizer_command.h"
#include "trainer/commands/train_command.h"
#include "trainer/commands/verify_layout_command.h"
#include "trainer/signal_thread.h"
#include "trainer/version.h"
#include "trainer/world.h"

namespace conclave {
namespace {

constexpr const char* kDescription =
    "Conclave trains Mixture-of-Experts language models from one YAML file, on one core or on a cluster.\n"
    "\n"
    "  conclave train configs/quickstart.yaml                    one process\n"
    "  launch/mpirun.sh 2 build/conclave train configs/quickstart.yaml\n"
    "                                                            two ranks, each with half of the experts\n"
    "  conclave train configs/quickstart.yaml optim.lr=3e-4      any key can be set on the command line\n"
    "  conclave config explain moe.capacity_factor               what a key means\n";

std::string host_name() {
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  return name.data();
}

// Ends the job: the other ranks may be waiting for this one in a collective.
[[noreturn]] void end_job(const std::string& message, ExitCode exit_code) {
  if (MpiRuntime::active()) {
    report_error(Error(fmt::format("rank {} on {}: {}", MpiRuntime::launched_rank(), host_name(), message)));
  } else if (MpiRuntime::launched_rank() == 0) {
    report_error(Error(message));
  }
  MpiRuntime::abort(static_cast<int>(exit_code));
}

int run(int argc, char** argv) {
  CLI::App app(kDescription, "conclave");
  app.set_version_flag("--version", fmt::format("conclave {}", version()));
  app.require_subcommand(1);
  app.footer(
      "Exit codes: 0 done, 75 stopped with the state saved (start again to go on), 78 configuration error, 1 "
      "else.");
  std::function<int()> selected;
  add_train_command(app, selected);
  add_eval_command(app, selected);
  add_generate_command(app, selected);
  add_inspect_command(app, selected);
  add_report_command(app, selected);
  add_config_command(app, selected);
  add_checkpoint_command(app, selected);
  add_data_command(app, selected);
  add_tokenizer_command(app, selected);
  add_doctor_command(app, selected);
  add_bench_command(app, selected);
  add_verify_layout_command(app, selected);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    // Every rank reads the same words. Rank 0 answers; another that failed first would have it killed.
    if (MpiRuntime::launched_rank() != 0) return 0;
    return app.exit(error) == 0 ? 0 : static_cast<int>(ExitCode::kConfiguration);
  }
  return selected();
}

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) {
  const conclave::SignalThread signal_thread;  // before MPI and OpenMP start theirs
  try {
    return conclave::run(argc, argv);
  } catch (const conclave::Error& error) {
    conclave::end_job(error.what(), error.exit_code());
  } catch (const std::exception& error) {
    conclave::end_job(fmt::format("unexpected: {}", error.what()), conclave::ExitCode::kFailure);
  }
}
