// `conclave bench`: how fast the pieces of a training step are, as shares of what the machine can do,
// measured in the same run. Every function is collective over `world`; its rows are the same on every rank,
// times those of the slowest. Values are random; ranks work at the same time, as they do in training.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "configs/run.pb.h"
#include "layers/context.h"
#include "trainer/bench/machine_peak.h"
#include "trainer/bench/stopwatch.h"

namespace conclave::bench {

// A row of results: names with units ("ms", "gflops", "peak_share") to values, in the order to be shown.
using Row = nlohmann::ordered_json;

struct Job {
  Communicator& world;
  config::Experiment experiment;  // resolved; a language model
  MachinePeak peak;               // of what computes
  TimingOptions timing;
  cuda::Engine* gpu = nullptr;  // that computes; null: the CPU

  const std::string& compute() const {
    return config::Precision::Compute_Name(experiment.precision().compute());
  }
  // Where operands lie.
  Device memory() const { return gpu != nullptr ? gpu->device() : Device(); }
  // For operators and modules, in this experiment's format.
  Context context(Arena& arena) const;
  std::vector<double> median_laps(const std::function<void(Stopwatch&)>& repetition) const;
  // Share of the peak of this experiment's format, of all ranks; flops are those of all ranks.
  double peak_share(double flops, double seconds) const;
};

// The projections of one layer and the head, alone: forward, and the gradients of input (dx) and weights
// (dW). flops = 2 M N K a rank.
std::vector<Row> bench_gemm(const Job& job);
// The experts' products from 8 rows an expert to 2,048, rows spread evenly, and the experts as a whole
// (products, activation, forward and backward).
std::vector<Row> bench_grouped_gemm(const Job& job);
// Rows between ranks: this program's exchange, MPI_Alltoallv and memcpy into a window that ranks of a node
// share.
std::vector<Row> bench_exchange(const Job& job);
// Scores, softmax and weighted sums: flops = 2 S^2 H hd a sequence forward where causal, else twice that;
// backward twice the forward.
std::vector<Row> bench_attention(const Job& job);
// Attention module, MoE layer with the real router, dense feed-forward and a whole block, forward and
// backward.
std::vector<Row> bench_layer(const Job& job);

struct StepOptions {
  int warm_up_steps = 3;
  int steps = 10;
  bool weak_scaling = false;
  // Other experiments, which take turns with the job's own step by step.
  struct Variant {
    std::string name;
    config::Experiment experiment;
  };
  std::string name;  // of the job's own
  std::vector<Variant> against;
};
// Whole training steps on random tokens.
std::vector<Row> bench_step(const Job& job, const StepOptions& options);

// For people: a table, whose columns are the names of the rows in order of appearance.
std::string to_table(const std::vector<Row>& rows);

}  // namespace conclave::bench
