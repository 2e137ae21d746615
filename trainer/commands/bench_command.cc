#include "trainer/commands/bench_command.h"

#include <fmt/format.h>
#include <omp.h>

#include <cstdio>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "configs/load.h"
#include "configs/validate.h"
#include "trainer/bench/bench.h"
#include "trainer/compute_device.h"
#include "trainer/compute_format.h"
#include "trainer/doctor/machine_facts.h"
#include "trainer/shared_error.h"
#include "trainer/version.h"
#include "trainer/world.h"

namespace conclave {
namespace {

struct Options {
  std::string what;
  std::vector<std::string> words;  // the file, if the first is none of key=value, and overrides
  std::vector<std::string> against;
  double seconds = 0.5;
  int steps = 10;
  int warm_up_steps = 3;
  std::int64_t peak_size = 8192;
  bool weak_scaling = false;
  bool json = false;
};

using Benchmark = std::vector<bench::Row> (*)(const bench::Job&);
const std::map<std::string, Benchmark>& operator_benchmarks() {
  static const std::map<std::string, Benchmark> benchmarks{{"gemm", bench::bench_gemm},
                                                           {"grouped_gemm", bench::bench_grouped_gemm},
                                                           {"exchange", bench::bench_exchange},
                                                           {"attention", bench::bench_attention},
                                                           {"layer", bench::bench_layer}};
  return benchmarks;
}

// What is measured where no file is given.
constexpr const char* kShape =
    "run: {name: bench}\n"
    "model: {layers: 4, d_model: 256, heads: 4, d_ff: 1024, max_seq: 256, qk_norm: false, tie_embeddings: "
    "false}\n"
    "moe: {experts: 8, top_k: 2, d_ff: 512}\n"
    "train: {micro_batch: 8, global_batch: 16}\n"
    "data: {train: [{name: random, path: none}]}\n";

bool is_override(const std::string& word) { return word.find('=') != std::string::npos; }

// A measured experiment by the words that name it: [FILE] [key=value...].
struct Named {
  std::string name;
  std::string file;  // "" for the built-in shape
  std::vector<std::string> overrides;

  explicit Named(const std::vector<std::string>& words) {
    for (const std::string& word : words) {
      name += (name.empty() ? "" : " ") + word;
      if (is_override(word)) {
        overrides.push_back(word);
      } else if (&word == &words.front()) {
        file = word;
      } else {
        throw ConfigError(
            fmt::format("bench: {} is neither the first word, a YAML file, nor key=value", word));
      }
    }
    if (name.empty()) name = "built-in shape";
  }
  config::Experiment load() const {
    return file.empty() ? config::parse_experiment(kShape, "the built-in shape of conclave bench", overrides)
                        : config::load_experiment(file, overrides);
  }
};

// A variant is a file with overrides, or overrides alone of what it is measured against.
Named variant_of(const Named& base, const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  Named variant(words);
  if (!variant.file.empty()) return variant;
  variant.file = base.file;
  variant.overrides.insert(variant.overrides.begin(), base.overrides.begin(), base.overrides.end());
  return variant;
}

config::Experiment load_checked(const Named& named, Communicator& world) {
  config::Experiment experiment = on_all_ranks(world, [&] { return named.load(); });
  if (experiment.model().kind() == config::Model::mixture_regression)
    throw ConfigError("bench: measures language models; model.kind: mixture_regression is none");
  config::check_for_world(experiment, world.size());
  const bool on_gpu = place_for(experiment, world).has_value();
  const bool is_bf16 = compute_format(experiment, world, on_gpu) == DType::kBFloat16;  // what `auto` is here
  experiment.mutable_precision()->set_compute(is_bf16 ? config::Precision::bf16 : config::Precision::fp32);
  return experiment;
}

std::vector<bench::Row> run(const Options& options, const Named& named, const bench::Job& job) {
  if (options.what != "step") return operator_benchmarks().at(options.what)(job);
  bench::StepOptions steps{.warm_up_steps = options.warm_up_steps,
                           .steps = options.steps,
                           .weak_scaling = options.weak_scaling,
                           .name = named.name,
                           .against = {}};
  for (const std::string& text : options.against) {
    const Named variant = variant_of(named, text);
    steps.against.push_back({text, load_checked(variant, job.world)});
  }
  return bench::bench_step(job, steps);
}

std::string peak_text(const bench::MachinePeak& peak) {
  const std::string fp32 = fmt::format("fp32 {:.0f} GFLOP/s ({})", peak.fp32, peak.fp32_instructions);
  if (peak.bf16 == 0) return fp32 + ", no bf16 instructions";
  return fmt::format("{}, bf16 {:.0f} GFLOP/s ({})", fp32, peak.bf16, peak.bf16_instructions);
}

ExitCode measure(const Options& options, Communicator& all_ranks) {
  const Named named(options.words);
  Named measured = named;
  if (options.what == "exchange") measured.overrides.emplace_back("run.device=cpu");  // of rows on the host
  const config::Experiment experiment = load_checked(measured, all_ranks);
  const ComputeDevice device(experiment, all_ranks);
  cuda::Engine* gpu = device.gpu.get();
  Communicator& world = device.world;
  // Steps make the groups of their own trainers, from all ranks.
  bench::Job job{.world = options.what == "step" ? all_ranks : world,
                 .experiment = experiment,
                 .peak = gpu != nullptr ? bench::measure_gpu_peak(world, *gpu, options.peak_size)
                                        : bench::measure_machine_peak(world),
                 .timing = {.seconds = options.seconds},
                 .gpu = gpu};
  const std::vector<bench::Row> rows = run(options, named, job);
  if (world.rank() != 0) return ExitCode::kDone;

  const MachineFacts facts = read_machine_facts();
  if (options.json) {
    const nlohmann::ordered_json result{
        {"bench", options.what},
        {"config", named.name},
        {"compute", job.compute()},
        {"version", version()},
        {"device", describe_device(gpu)},
        {"cpu", facts.cpu},
        {"cores", facts.cores},
        {"ranks", world.size()},
        {"threads_a_rank", omp_get_max_threads()},
        {"peak_gflops", {{"fp32", job.peak.fp32}, {"bf16", job.peak.bf16}}},
        {"peak_instructions", {{"fp32", job.peak.fp32_instructions}, {"bf16", job.peak.bf16_instructions}}},
        {"rows", rows}};
    fmt::print("{}\n", result.dump(2));
  } else {
    fmt::print("Conclave {}, {}, {} cores; {} rank{} of {} thread{}\n", version(), facts.cpu, facts.cores,
               world.size(), world.size() == 1 ? "" : "s", omp_get_max_threads(),
               omp_get_max_threads() == 1 ? "" : "s");
    if (gpu != nullptr) fmt::print("{}\n", describe_device(gpu));
    fmt::print("peak of this run: {}; shares are of {}\n\n{}", peak_text(job.peak), job.compute(),
               bench::to_table(rows));
  }
  std::fflush(stdout);
  return ExitCode::kDone;
}

constexpr const char* kFooter =
    "Medians over repetitions, each as long as its slowest rank; random values; the machine's peak is "
    "measured in\n"
    "the same run: multiply-adds between registers on all threads of all ranks at once. With run.device: "
    "cuda, or "
    "auto and\n"
    "a GPU, everything but exchange is measured there, by the GPU's clock, and the peak is a product of "
    "cuBLAS.\n"
    "\n"
    "  gemm          products of one layer and the head: 2 M N K flops\n"
    "  grouped_gemm  the experts' products, and whole experts, from 8 to 2,048 rows an expert: 2 D F flops a "
    "row and\n"
    "                matrix forward, twice that backward\n"
    "  exchange      rows between ranks, beside MPI_Alltoallv and memcpy into a shared window (under "
    "mpirun)\n"
    "  attention     2 S^2 H hd flops a sequence forward where causal, else twice that; backward twice the "
    "forward\n"
    "  layer         attention, feed-forward, MoE layer and block as modules, with the real router\n"
    "  step          whole training steps on random tokens: 6 flops a token for each parameter that it is "
    "multiplied\n"
    "                with (projections, router, top_k experts, head; not the embedding), and 6 S H hd a "
    "layer for\n"
    "                causal attention\n"
    "\n"
    "  conclave bench step configs/bench_256.yaml --against moe.experts=128\n"
    "  conclave bench step configs/shakespeare.yaml --against configs/shakespeare_dense.yaml\n"
    "  launch/mpirun.sh 2 build/conclave bench step configs/bench_256.yaml --weak-scaling";

}  // namespace

void add_bench_command(CLI::App& app, std::function<int()>& selected) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "bench", "How fast the pieces of training are, as shares of what this machine can do");
  std::vector<std::string> names{"step"};
  for (const auto& [name, benchmark] : operator_benchmarks()) names.push_back(name);
  command->add_option("what", options->what, "gemm, grouped_gemm, exchange, attention, layer or step")
      ->required()
      ->check(CLI::IsMember(names));
  command->add_option("config", options->words,
                      "A YAML file and key=value; without a file a small model of 4 layers");
  command->add_option(
      "--against", options->against,
      "step: measure this too, in turns: \"FILE key=value...\", or key=value... to change CONFIG; "
      "may be given more than once");
  command->add_option("--seconds", options->seconds, "About how long each row but those of step takes")
      ->check(CLI::Range(0.001, 600.0));
  command->add_option("--steps", options->steps, "step: how many are measured")->check(CLI::Range(1, 100000));
  command->add_option("--warm-up", options->warm_up_steps, "step: how many come before")
      ->check(CLI::Range(1, 1000));
  command
      ->add_option("--peak-size", options->peak_size,
                   "On a GPU: rows of the square matrices whose product is the peak; fewer where memory is "
                   "small")
      ->capture_default_str()
      ->check(CLI::Range(1, 65536));
  command->add_flag("--weak-scaling", options->weak_scaling,
                    "step: rank 0 also trains alone, on its share of the batch, in turns with all ranks");
  command->add_flag("--json", options->json, "For other programs");
  command->footer(kFooter);
  command->callback([options, &selected] {
    selected = [options] {
      return static_cast<int>(run_in_world([&](Communicator& world) { return measure(*options, world); }));
    };
  });
}

}  // namespace conclave
