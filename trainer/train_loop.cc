#include "trainer/train_loop.h"

#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "configs/load.h"
#include "configs/show.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/checkpoint_paths.h"
#include "trainer/checkpoint/checkpoint_saver.h"
#include "trainer/compute_device.h"
#include "trainer/durable_file.h"
#include "trainer/evaluate.h"
#include "trainer/interop/initial_weights.h"
#include "trainer/progress.h"
#include "trainer/replica_check.h"
#include "trainer/run_record.h"
#include "trainer/shared_error.h"
#include "trainer/start_report.h"
#include "trainer/step_trace.h"
#include "trainer/stop.h"
#include "trainer/train_step.h"
#include "trainer/trainer.h"

namespace conclave {
namespace {

// Fails before the first step rather than at the first save. Every rank writes there, perhaps from another
// host.
void prepare_run_directory(const std::string& run_dir, Communicator& world) {
  const std::filesystem::path checkpoints = checkpoints_directory(run_dir);
  const auto on_each = [&](auto&& action) {
    std::optional<Error> failure;
    try {
      action();
    } catch (const std::exception& error) {
      failure = Error(fmt::format("run.dir {} can't be written: {}; choose another with run.dir=…", run_dir,
                                  error.what()));
    }
    throw_if_any_failed(world, failure);
  };
  on_each([&] {
    if (world.rank() == 0) create_directories_durably(checkpoints);
  });
  on_each([&] {
    const std::filesystem::path probe = checkpoints / fmt::format(".write-probe-{}", world.rank());
    DurableFile(probe).close_durably();
    std::filesystem::remove(probe);
  });
}

// Resuming under another configuration would continue another experiment.
void check_same_experiment(const config::Experiment& experiment, const TrainingProgress& progress) {
  if (experiment.checkpoint().allow_changes()) return;
  const config::Experiment saved = config::parse_experiment(progress.resolved_config, "checkpoint", {});
  std::string changes;
  for (const config::Difference& difference : config::differences(saved, experiment)) {
    if (difference.changes_results) {
      changes +=
          fmt::format("\n  {}: {} in the checkpoint, {} now", difference.key, difference.a, difference.b);
    }
  }
  if (!changes.empty()) {
    throw ConfigError(
        fmt::format("run.dir {} holds a run with other values of keys that change results:{}\nset them back, "
                    "choose another "
                    "run.dir, or continue all the same with checkpoint.allow_changes=true",
                    experiment.run().dir(), changes));
  }
}

struct Resumed {
  std::int64_t steps = 0;             // that are done
  std::vector<std::string> warnings;  // newer checkpoints that are damaged
  std::string source;                 // "resumed from ..., step 500", or where a new run's weights come from
};

// Loads the newest whole checkpoint, if there is one and the configuration wants it; otherwise the weights
// that the run is to start from, if it names some.
Resumed resume(Trainer& trainer) {
  const config::Checkpoint& options = trainer.experiment.checkpoint();
  const std::string& run_dir = trainer.experiment.run().dir();
  if (options.resume() == config::Checkpoint::never) {
    if (!find_checkpoints(run_dir).empty()) {
      throw ConfigError(fmt::format(
          "checkpoint.resume is never, and {} holds checkpoints: remove them or choose another run.dir",
          run_dir));
    }
    return {0, {}, load_initial_weights(trainer)};
  }
  const std::vector<ShardedTensor> tensors = trainer.checkpoint_tensors();
  const ResumeResult result = resume_newest(
      trainer.world, run_dir, tensors,
      [&](const TrainingProgress& progress) { check_same_experiment(trainer.experiment, progress); });
  if (result.progress) {
    go_on_from(trainer, *result.progress);
    return {result.progress->step, result.rejected,
            fmt::format("resumed from {}, step {}", result.path.string(), result.progress->step)};
  }
  if (options.resume() == config::Checkpoint::must) {
    throw ConfigError(fmt::format("checkpoint.resume is must, and {} holds no checkpoint", run_dir));
  }
  return {0, {}, load_initial_weights(trainer)};
}

// A GPU's pages stay where they are when it copies from them; they travel to a host that reads them.
CheckpointSaver::CopyOut copy_out_of(cuda::Engine* gpu) {
  if (gpu == nullptr) return nullptr;
  return [gpu](void* to, const void* from, std::size_t bytes) { gpu->staging().download(to, from, bytes); };
}

CheckpointSaver make_saver(const Trainer& trainer) {
  const config::Checkpoint& options = trainer.experiment.checkpoint();
  return {trainer.grid, trainer.experiment.run().dir(), options.keep(),
          options.async() ? CheckpointSaver::Mode::kBackground : CheckpointSaver::Mode::kBlocking,
          copy_out_of(trainer.gpu)};
}

// Waits for a save that runs beside training, if there is one.
void finish_save(CheckpointSaver& saver, RunRecord& record) {
  if (const std::optional<SaveResult> result = saver.finish()) record.saved(*result);
}

// A save that fails on the way is tried again at the next one; when the run ends there is none. The next one
// waits for one that still runs, so that no interval goes unsaved.
void save(Trainer& trainer, CheckpointSaver& saver, RunRecord& record, std::int64_t completed_steps,
          bool run_ends) {
  const auto start = std::chrono::steady_clock::now();
  const auto seconds = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  if (saver.in_flight()) {
    finish_save(saver, record);
    record.waited_for_save(completed_steps, seconds());
  }
  const std::vector<ShardedTensor> tensors = trainer.checkpoint_tensors();
  saver.begin(progress_after(trainer, completed_steps), tensors);
  if (trainer.experiment.checkpoint().async() && !run_ends) {
    record.save_began(completed_steps, seconds());
    return;
  }
  const SaveResult result = *saver.finish();
  if (run_ends && !result.saved) {
    throw SharedError(fmt::format(
        "the run ends after step {} and its state can't be saved: {}; mend that, and the same command goes "
        "on from the newest checkpoint",
        completed_steps, result.message));
  }
  record.save_began(completed_steps, seconds());
  record.saved(result);
}

Evaluation evaluate_held_out(Trainer& trainer, std::int64_t max_sequences) {
  return evaluate({.model = trainer.model,
                   .dataset = trainer.dataset,
                   .grid = trainer.grid,
                   .arena = trainer.arena,
                   .batch = trainer.batch,
                   .compute = trainer.compute,
                   .gpu = trainer.gpu,
                   .micro_batch = trainer.experiment.train().micro_batch(),
                   .max_sequences = max_sequences});
}

bool is_due(std::int64_t completed_steps, std::int64_t every) {
  return every > 0 && completed_steps % every == 0;
}

// A run whose loss or gradients stay non-finite is broken; its last good checkpoint is worth
// more than its end.
void check_skipped_steps(const config::Experiment& experiment, std::int64_t skipped_in_a_row,
                         std::int64_t step, CheckpointSaver& saver, RunRecord& record) {
  if (skipped_in_a_row < experiment.train().max_skipped_steps()) return;
  finish_save(saver, record);
  throw SharedError(fmt::format(
      "the loss or the gradient was not finite, or the loss was a spike, in {} steps in a row, the last of "
      "them step {}; the newest checkpoint is from before. Lower optim.lr, raise schedule.warmup_steps or "
      "look at the data of those steps",
      skipped_in_a_row, step + 1));
}

// After a loss spike at `step`, whose update was not made: back to the newest checkpoint, or, before the
// first, to the beginning of the step, to go on without the samples of that step. Returns the steps that are
// done then.
std::int64_t rewind(Trainer& trainer, CheckpointSaver& saver, RunRecord& record, std::int64_t step,
                    const StepResult& spike) {
  const config::Experiment& experiment = trainer.experiment;
  const std::int64_t batch = trainer.batch_order.batch_of(step);
  check_skipped_steps(experiment, trainer.batch_order.left_out_before(batch) + 1, step, saver, record);
  data::BatchOrder order = trainer.batch_order;
  order.leave_out(batch);

  finish_save(saver, record);  // it may be the newest
  const std::vector<ShardedTensor> tensors = trainer.checkpoint_tensors();
  const ResumeResult result =
      resume_newest(trainer.world, experiment.run().dir(), tensors, [](const TrainingProgress&) {});
  for (const std::string& warning : result.rejected) record.warn(warning);
  if (result.progress) {
    go_on_from(trainer, *result.progress);
  } else {
    trainer.trained_tokens -= spike.tokens;
  }
  trainer.batch_order = order;  // a checkpoint does not know of its last

  const std::int64_t completed = result.progress ? result.progress->step : step;
  record.rewind(completed);
  record.say(fmt::format("goes on after step {} of {}; the samples of the spike are left out", completed,
                         result.progress ? result.path.string() : "this run, which has no checkpoint yet"));
  return completed;
}

}  // namespace

ExitCode train(const config::Experiment& experiment, Communicator& world) {
  world.watchdog().set_timeout(experiment.run().timeout());
  prepare_run_directory(experiment.run().dir(), world);
  StopCondition stop(experiment, world);  // from here on a signal is a wish, not an end
  Trainer trainer(experiment, world);
  const Resumed resumed = resume(trainer);
  const auto owned_record =
      on_all_ranks(world, [&] { return std::make_unique<RunRecord>(trainer, resumed.steps); });
  RunRecord& record = *owned_record;
  record.say(start_report(trainer));
  for (const std::string& warning : resumed.warnings) record.warn(warning);
  if (!resumed.source.empty()) record.say(resumed.source);

  const config::Train& plan = experiment.train();
  CheckpointSaver saver = make_saver(trainer);
  StepTrace trace(experiment, world, trainer.clock);
  std::int64_t skipped_in_a_row = 0;
  for (std::int64_t step = resumed.steps; step < plan.steps(); ++step) {
    trace.begin_step();
    const auto start = std::chrono::steady_clock::now();
    const StepResult result = train_step(trainer, step);
    record.step(step, result,
                std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    if (step == resumed.steps && trainer.gpu != nullptr) {
      if (const std::string calls = describe_calls_on_host(*trainer.gpu); !calls.empty()) record.say(calls);
    }
    if (const std::string failure = trainer.routing_recorder.end_step(step); !failure.empty())
      record.warn(failure);
    if (result.spike && plan.spike() == config::Train::rewind) {
      step = rewind(trainer, saver, record, step, result) - 1;
      continue;
    }
    skipped_in_a_row = result.skipped ? skipped_in_a_row + 1 : 0;
    check_skipped_steps(experiment, skipped_in_a_row, step, saver, record);

    const std::int64_t completed = step + 1;
    if (const std::optional<SaveResult> save_result = saver.poll()) record.saved(*save_result);
    const bool last = completed == plan.steps();
    // Before a damaged replica can get into a checkpoint.
    if (is_due(completed, plan.hash_every())) {
      check_replicas(trainer.grid, trainer.replicated_tensors(), completed);
    }
    const bool stopping = !last && stop.should_stop(completed);
    if (last || stopping || is_due(completed, experiment.checkpoint().every())) {
      save(trainer, saver, record, completed, /*run_ends=*/last || stopping);
    }
    if (const std::string message = trace.end_step(last || stopping); !message.empty()) record.say(message);
    if (stopping) {
      record.say_time_use();
      record.write_report();
      record.say(
          fmt::format("stopped after step {}: {}; the same command continues", completed, stop.reason()));
      return ExitCode::kRequeue;
    }
    if (!last && is_due(completed, plan.eval_every())) {
      record.evaluation(completed, evaluate_held_out(trainer, plan.eval_sequences()));
    }
  }
  record.finish(evaluate_held_out(trainer, /*max_sequences=*/0));
  return ExitCode::kDone;
}

}  // namespace conclave
