#include "trainer/commands/report_command.h"

#include <fmt/format.h>

#include <memory>
#include <string>

#include "comm/mpi/mpi_communicator.h"
#include "trainer/report/run_report.h"

namespace conclave {

void add_report_command(CLI::App& app, std::function<int()>& selected) {
  struct Options {
    std::string run_dir;
    std::string html;
  };
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("report", "Write a page of a run's losses, speed and expert loads");
  command->add_option("run", options->run_dir, "A run directory (with metrics.jsonl)")->required();
  command->add_option("--html", options->html,
                      "The file to write; report.html in the run directory if left out");
  command->footer("The page is one file, needs no network, and is also written when a run ends or stops.");
  command->callback([options, &selected] {
    selected = [options] {
      if (MpiRuntime::launched_rank() != 0) return 0;  // one writer is enough, whoever started several
      const std::filesystem::path path =
          options->html.empty() ? run_report_path(options->run_dir) : std::filesystem::path(options->html);
      write_run_report(options->run_dir, path);
      fmt::print("wrote {}\n", path.string());
      return 0;
    };
  });
}

}  // namespace conclave
