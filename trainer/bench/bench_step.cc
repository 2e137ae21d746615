#include <array>
#include <chrono>
#include <memory>
#include <span>

#include "comm/self/self_communicator.h"
#include "trainer/bench/bench.h"
#include "trainer/data/random_data.h"
#include "trainer/metrics/time_use.h"
#include "trainer/model_flops.h"
#include "trainer/parameter_count.h"
#include "trainer/train_step.h"
#include "trainer/trainer.h"

namespace conclave::bench {
namespace {

config::Experiment to_be_measured(config::Experiment experiment) {
  experiment.mutable_log()->clear_routing();
  experiment.mutable_moe()->clear_router_supervision();  // random tokens have no source
  experiment.mutable_schedule()->set_warmup_steps(0);
  return experiment;
}

// One experiment in training.
class Contestant {
 public:
  // Collective over `world`, the ranks that take part.
  Contestant(std::string name, const config::Experiment& experiment, Communicator& world)
      : name_(std::move(name)),
        trainer_(to_be_measured(experiment), world, std::make_unique<data::RandomData>(experiment)),
        flops_(experiment) {}

  // Collective. One step; this rank's seconds, in all and of the optimizer.
  struct Seconds {
    double all = 0;
    double optimizer = 0;
  };
  Seconds step() {
    const double optimizer_before = trainer_.clock.seconds(TimePart::kOptimizer);
    const auto start = std::chrono::steady_clock::now();
    const StepResult result = train_step(trainer_, steps_++);
    trainer_.synchronize();
    const double all = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    tokens_ = result.tokens;
    return {all, trainer_.clock.seconds(TimePart::kOptimizer) - optimizer_before};
  }
  void record(Seconds slowest) {
    all_.push_back(slowest.all);
    without_optimizer_.push_back(slowest.all - slowest.optimizer);
  }
  // Collective: forgets the warm-up.
  void warmed_up() { trainer_.clock.reset(); }

  const std::vector<double>& all() const { return all_; }
  const std::vector<double>& without_optimizer() const { return without_optimizer_; }
  double tokens_per_second() const { return static_cast<double>(tokens_) / median_of(all_); }

  // On a GPU a span takes as long as the host needs to enqueue the work.
  bool spans_measure_work() const { return trainer_.gpu == nullptr; }

  // Collective over the ranks that take part.
  Row row(const MachinePeak& peak, int ranks_of_peak) {
    const config::Experiment& experiment = trainer_.experiment;
    const ParameterCount count = count_parameters(experiment);
    const double seconds = median_of(all_);
    const double gflops = flops_.training() * static_cast<double>(tokens_) / seconds / 1e9;
    const std::string& compute = config::Precision::Compute_Name(experiment.precision().compute());
    const double own_peak = peak.of(compute) * trainer_.world.size() / ranks_of_peak;
    Row row{{"variant", name_},
            {"compute", compute},
            {"ranks", trainer_.world.size()},
            {"parameters", count.total},
            {"active_parameters", count.active},
            {"tokens", tokens_},
            {"ms", 1e3 * seconds}};
    if (spans_measure_work()) row["optimizer_ms"] = 1e3 * (seconds - median_of(without_optimizer_));
    row["tokens_per_s"] = tokens_per_second();
    row["gflops"] = gflops;
    row["peak_share"] = own_peak > 0 ? gflops / own_peak : 0;
    if (spans_measure_work()) {
      const TimeUse use = take_time_use(trainer_.clock, trainer_.grid);
      for (const auto& [part, share] : use.shares()) row[part + "_share"] = share;
      row["imbalance_tax_share"] = use.imbalance_tax_share();
    }
    row["activations_mib"] = static_cast<double>(trainer_.arena.peak_bytes()) / (1 << 20);
    return row;
  }

 private:
  std::string name_;
  Trainer trainer_;
  ModelFlops flops_;
  std::int64_t steps_ = 0;
  std::int64_t tokens_ = 0;
  std::vector<double> all_;                // slowest rank's, a step
  std::vector<double> without_optimizer_;  // the same
};

double median_ratio(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> ratios;
  for (std::size_t i = 0; i < a.size(); ++i) ratios.push_back(a[i] / b[i]);
  return median_of(std::move(ratios));
}

// What one rank trains by itself, of as many samples as it has in the whole job.
config::Experiment share_of_one_rank(config::Experiment experiment, int ranks) {
  const std::int64_t global_batch = experiment.train().global_batch();
  if (global_batch % ranks != 0)
    throw ConfigError(
        fmt::format("bench step --weak-scaling: train.global_batch {} is not divisible by {} ranks",
                    global_batch, ranks));
  experiment.mutable_train()->set_global_batch(global_batch / ranks);
  experiment.mutable_parallel()->set_expert_parallel_size(1);
  return experiment;
}

}  // namespace

std::vector<Row> bench_step(const Job& job, const StepOptions& options) {
  Communicator& world = job.world;
  std::vector<std::unique_ptr<Contestant>> contestants;
  contestants.push_back(std::make_unique<Contestant>(options.name, job.experiment, world));
  for (const StepOptions::Variant& variant : options.against)
    contestants.push_back(std::make_unique<Contestant>(variant.name, variant.experiment, world));
  // Rank 0 by itself, while the others wait.
  const std::unique_ptr<Communicator> self = make_self_communicator();
  std::unique_ptr<Contestant> alone;
  if (options.weak_scaling) {
    const config::Experiment share = share_of_one_rank(job.experiment, world.size());
    if (world.rank() == 0) alone = std::make_unique<Contestant>("one rank alone", share, *self);
  }

  for (int step = 0; step < options.warm_up_steps + options.steps; ++step) {
    const bool counts = step >= options.warm_up_steps;
    for (const auto& contestant : contestants) {
      if (step == options.warm_up_steps) contestant->warmed_up();
      world.barrier().wait();
      Contestant::Seconds seconds = contestant->step();
      std::array<double, 2> slowest{seconds.all, seconds.all - seconds.optimizer};
      world.all_reduce(buffer_view(std::span<double>(slowest)), ReduceOp::kMax);
      if (counts) contestant->record({slowest[0], slowest[0] - slowest[1]});
    }
    world.barrier().wait();
    if (alone) {
      if (step == options.warm_up_steps) alone->warmed_up();
      const Contestant::Seconds seconds = alone->step();
      if (counts) alone->record(seconds);
    }
  }

  std::vector<Row> rows;
  for (const auto& contestant : contestants) {
    Row row = contestant->row(job.peak, world.size());
    if (contestant != contestants.front()) {
      row["ratio"] = median_ratio(contestant->all(), contestants.front()->all());
      if (contestant->spans_measure_work() && contestants.front()->spans_measure_work()) {
        row["ratio_without_optimizer"] =
            median_ratio(contestant->without_optimizer(), contestants.front()->without_optimizer());
      }
    }
    rows.push_back(std::move(row));
  }
  if (!options.weak_scaling) return rows;
  // Rank 0's row, for all: the others took no part in it.
  double speed_alone = 0;
  if (alone) {
    rows.push_back(alone->row(job.peak, world.size()));
    speed_alone = alone->tokens_per_second();
  }
  world.broadcast(buffer_view(std::span(&speed_alone, 1)), 0).wait();
  rows.front()["weak_scaling"] = contestants.front()->tokens_per_second() / speed_alone;
  return rows;
}

}  // namespace conclave::bench
