#include "trainer/commands/doctor_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <vector>

#include "trainer/checkpoint/agreement.h"
#include "trainer/doctor/gpu_facts.h"
#include "trainer/doctor/kernel_check.h"
#include "trainer/doctor/machine_facts.h"
#include "trainer/doctor/measurements.h"
#include "trainer/metrics/table.h"
#include "trainer/placement.h"
#include "trainer/version.h"
#include "trainer/world.h"

namespace conclave {
namespace {

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return text.empty() ? "none of those looked for" : text;
}

std::string facts_text(const MachineFacts& facts, int ranks) {
  const bool has_bf16 = facts.has("avx512_bf16") || facts.has("amx_bf16");
  return fmt::format(
      "Conclave {}\n"
      "cpu          {}, {} cores, {} of memory\n"
      "vectors      {}\n"
      "bf16         {}\n"
      "mpi          {}; {}\n"
      "{}\n",
      version(), facts.cpu, facts.cores, format_bytes(static_cast<double>(facts.memory_bytes)),
      joined(facts.instruction_sets),
      has_bf16 ? "the processor has bf16 instructions" : "no bf16 instructions: fp32 is the format to use",
      facts.mpi_library,
      ranks > 1 ? fmt::format("{} ranks", ranks)
                : "not started: run this under mpirun to measure the exchange",
      gpu_report(read_gpu_facts()));
}

// Collective. Measures, and prints what it finds and what this machine has.
void report_machine(Communicator& world) {
  const MachineFacts facts = read_machine_facts();
  world.barrier();
  const double gemm = measure_gemm_gflops();
  const double memory = measure_memory_gb_per_second();
  const double small_exchange = measure_exchange_gb_per_second(world, std::int64_t{64} << 10);
  const double large_exchange = measure_exchange_gb_per_second(world, std::int64_t{2} << 20);
  const auto exchange_cell = [&](double value) {
    return world.size() == 1 ? "-" : fmt::format("{:.1f}", value);
  };

  const std::string row = fmt::format("{}\t{}\t{}\t{}\t{:.0f}\t{:.1f}\t{}\t{}", world.rank(), facts.host,
                                      core_list(facts.bound_cores), facts.openmp_threads, gemm, memory,
                                      exchange_cell(small_exchange), exchange_cell(large_exchange));
  const std::vector<std::string> rows = gather_on_rank_0(world, row);
  if (world.rank() != 0) return;

  std::vector<std::vector<std::string>> cells;
  for (const std::string& line : rows) {
    cells.emplace_back();
    for (std::size_t begin = 0; begin <= line.size();) {
      const std::size_t end = std::min(line.find('\t', begin), line.size());
      cells.back().push_back(line.substr(begin, end - begin));
      begin = end + 1;
    }
  }
  fmt::print("{}{}", facts_text(facts, world.size()),
             format_table({"rank", "host", "may run on cores", "threads", "fp32 GFLOP/s", "memory GB/s",
                           "exchange 64 KiB GB/s", "exchange 2 MiB GB/s"},
                          cells));
  std::fflush(stdout);
}

std::int64_t sum_over(Communicator& world, std::int64_t value) {
  world.all_reduce(buffer_view(std::span(&value, 1)));
  return value;
}

// Collective. On every rank the GPU that training would give it, if all have one. Prints whether their
// kernels compute what the CPU does.
ExitCode check_gpus(Communicator& world) {
  if (sum_over(world, cuda::gpus().empty() ? 1 : 0) > 0) return ExitCode::kDone;  // the facts say why
  config::Run run;
  run.set_allow_gpu_sharing(true);
  cuda::Engine gpu(place_on_gpus(run, world).gpu);
  const std::vector<KernelAgreement> agreements = check_kernels(gpu, kernel_cases());
  const bool all_agree = std::ranges::all_of(agreements, &KernelAgreement::agrees);
  const std::vector<std::string> texts = gather_on_rank_0(world, describe(agreements));
  if (world.rank() == 0) {
    for (std::size_t rank = 0; rank < texts.size(); ++rank)
      fmt::print("{}{}", texts.size() > 1 ? fmt::format("rank {}: ", rank) : "", texts[rank]);
    std::fflush(stdout);
  }
  return sum_over(world, all_agree ? 0 : 1) == 0 ? ExitCode::kDone : ExitCode::kFailure;
}

ExitCode examine(Communicator& world) {
  report_machine(world);
  return check_gpus(world);
}

}  // namespace

void add_doctor_command(CLI::App& app, std::function<int()>& selected) {
  CLI::App* command = app.add_subcommand(
      "doctor",
      "What this machine has and how fast it is: cores, binding, instructions, MPI, GPUs, CUDA, NCCL, "
      "memory, exchange");
  command->footer(
      "Run it as the training will run: launch/mpirun.sh 2 build/conclave doctor\n"
      "Where there are GPUs, small cases of the main operators run on them and on the CPU. Exit code 1: they "
      "differ.");
  command->callback([&selected] { selected = [] { return static_cast<int>(run_in_world(examine)); }; });
}

}  // namespace conclave
