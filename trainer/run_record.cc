#include "trainer/run_record.h"

#include <fmt/format.h>

#include <algorithm>
#include <iostream>

#include "trainer/durable_file.h"
#include "trainer/evaluation_report.h"
#include "trainer/metrics/process_memory.h"
#include "trainer/report/run_report.h"
#include "trainer/routing_summary.h"

namespace conclave {
namespace {

std::unique_ptr<Console> make_console(const Trainer& trainer, std::int64_t first_step) {
  if (trainer.world.rank() != 0) return nullptr;
  return std::make_unique<Console>(
      std::cout, ConsoleStyle::detect(stdout), trainer.experiment.train().steps(), first_step,
      tokens_are_bytes(trainer.experiment) && !predicts_masked(trainer.experiment),
      future_leak_marker(trainer.experiment));
}

EvaluationRecord evaluation_record(std::int64_t completed_steps, const Evaluation& evaluation,
                                   const config::Experiment& experiment) {
  EvaluationRecord record;
  record.step = completed_steps;
  record.eval_loss = evaluation.loss();
  record.bits_per_byte = bits_per_byte(evaluation.loss());
  record.tokens_are_bytes = tokens_are_bytes(experiment);
  record.masked = predicts_masked(experiment);
  if (is_regression(experiment)) {
    record.mean_squared_error = evaluation.total().mean_squared_error();
    record.best_mean_squared_error = evaluation.total().best_mean_squared_error();
  }
  record.router_accuracy = evaluation.router_accuracy();
  record.force_balanced = experiment.moe().force_balanced();
  for (const HeldOutSource& source : evaluation.sources) {
    record.by_source.push_back(
        {source.name, source.loss(), bits_per_byte(source.loss()), source.router_accuracy()});
  }
  return record;
}

}  // namespace

RunRecord::RunRecord(Trainer& trainer, std::int64_t first_step)
    : trainer_(trainer),
      console_(make_console(trainer, first_step)),
      log_(trainer.experiment.run().dir(), trainer.world.rank(), console_.get(),
           future_leak_marker(trainer.experiment)) {
  open_records(first_step);
}

void RunRecord::open_records(std::int64_t first_step) {
  if (!is_first_rank()) return;
  const config::Experiment& experiment = trainer_.experiment;
  metrics_.emplace(experiment.run().dir(), first_step);
  if (experiment.log().tensorboard()) tensorboard_.emplace(experiment.run().dir(), first_step);
}

void RunRecord::rewind(std::int64_t first_step) {
  metrics_.reset();
  tensorboard_.reset();
  open_records(first_step);
  // What was counted since the last record belongs to steps that have not happened.
  take_routing_summary(trainer_.model, trainer_.world);
  trainer_.clock.reset();
  steps_ = 0;
  tokens_ = 0;
  seconds_ = 0;
}

void RunRecord::say(const std::string& text) { log_.info(text); }

void RunRecord::warn(const std::string& text) { log_.warning(text); }

void RunRecord::step(std::int64_t step, const StepResult& result, double step_seconds) {
  ++steps_;
  tokens_ += result.tokens;
  seconds_ += step_seconds;
  if (result.skipped || result.spike) report_unusual(step, result);
  if (console_) console_->progress(step + 1, step_seconds);
  if ((step + 1) % trainer_.experiment.log().every() != 0) return;

  const StepRecord record = reduced_record(step + 1, result);
  if (console_) console_->write(record);
  if (metrics_) metrics_->write(record);
  if (tensorboard_) tensorboard_->write(record);
}

void RunRecord::report_unusual(std::int64_t step, const StepResult& result) {
  if (result.skipped) ++skipped_steps_;
  const std::string samples =
      fmt::format("samples {} to {}", result.first_sample,
                  result.first_sample + trainer_.experiment.train().global_batch() - 1);
  if (result.spike) {
    warn(fmt::format(
        "step {}{}: loss {} is a spike, above {}: mean and {:g} standard deviations of the losses "
        "before it; {}",
        step + 1, result.skipped ? " skipped" : "", result.loss, result.spike_limit, LossWindow::kDeviations,
        samples));
  } else {
    warn(fmt::format("step {} skipped: loss {} and gradient norm {}; {}", step + 1, result.loss,
                     result.gradient_norm, samples));
  }
}

StepRecord RunRecord::reduced_record(std::int64_t completed_steps, const StepResult& result) {
  const config::Experiment& experiment = trainer_.experiment;
  const RoutingSummary routing = take_routing_summary(trainer_.model, trainer_.world);
  const TimeUse time_use = take_time_use(trainer_.clock, trainer_.grid);
  time_use_.add(time_use);
  std::int64_t memory_bytes = resident_memory_bytes();
  trainer_.world.all_reduce(buffer_view(std::span(&memory_bytes, 1)), ReduceOp::kMax);

  const auto steps = static_cast<double>(steps_);
  StepRecord record;
  record.step = completed_steps;
  record.tokens = trainer_.trained_tokens;
  record.loss = result.loss;
  record.balance_loss_raw = routing.balance_loss_raw() / steps;
  record.balance_loss = routing.balance_loss(experiment) / steps;
  record.z_loss = routing.z_loss(experiment) / steps;
  record.supervision_loss = routing.supervision_loss(experiment) / steps;
  record.importance_loss = experiment.moe().importance_loss() * routing.importance_loss_raw() / steps;
  record.load_loss = experiment.moe().load_loss() * routing.load_loss_raw() / steps;
  record.lr = result.learning_rate;
  record.grad_norm = result.gradient_norm;
  record.step_ms = 1e3 * seconds_ / steps;
  record.tokens_per_second = static_cast<double>(tokens_) / seconds_;
  record.load_imbalance_by_layer = routing.load_imbalance();
  record.load_imbalance = routing.layers.empty() ? 1.0 : std::ranges::max(record.load_imbalance_by_layer);
  record.dropped_fraction = routing.dropped_fraction();
  record.dropped_by_layer = routing.dropped_fraction_by_layer();
  record.dropped_by_choice = routing.dropped_fraction_by_choice();
  record.exchange_fraction = time_use.exchange_share();
  record.imbalance_tax = time_use.imbalance_tax_share();
  record.time_shares = time_use.shares();
  record.dead_experts = routing.dead_experts();
  record.load_entropy = routing.load_entropy();
  record.router_entropy = routing.router_entropy();
  record.rank_imbalance = routing.layers.empty() ? 1.0 : std::ranges::max(routing.rank_imbalance);
  record.skipped_steps = skipped_steps_;
  record.failed_saves = failed_saves_;
  record.memory_bytes = memory_bytes;
  record.force_balanced = experiment.moe().force_balanced();
  for (const MoeStatistics& layer : routing.layers) record.expert_load.push_back(layer.chosen_per_expert);
  steps_ = 0;
  tokens_ = 0;
  seconds_ = 0;
  return record;
}

void RunRecord::evaluation(std::int64_t completed_steps, const Evaluation& evaluation) {
  if (evaluation.sources.empty()) return;
  const EvaluationRecord record = evaluation_record(completed_steps, evaluation, trainer_.experiment);
  if (console_) console_->write(record);
  if (metrics_) metrics_->write(record);
  if (tensorboard_) tensorboard_->write(record);
}

void RunRecord::save_began(std::int64_t completed_steps, double stalled_seconds) {
  log_.debug(
      fmt::format("save of step {}: training stood still for {:.6f} s", completed_steps, stalled_seconds));
}

void RunRecord::waited_for_save(std::int64_t completed_steps, double seconds) {
  warn(
      fmt::format("the checkpoint of step {} waited {:.2f} s for the one before it: saving takes longer than "
                  "checkpoint.every={} "
                  "steps",
                  completed_steps, seconds, trainer_.experiment.checkpoint().every()));
}

void RunRecord::saved(const SaveResult& result) {
  if (!result.saved) {
    ++failed_saves_;
    warn(
        fmt::format("checkpoint {} was not saved: {}; training goes on, older checkpoints stay ({} failed "
                    "since the start)",
                    result.path.string(), result.message, failed_saves_));
    return;
  }
  if (!result.message.empty()) warn(result.message);
  log_.debug(fmt::format("saved {} ({} bytes)", result.path.string(), result.bytes));
}

void RunRecord::say_time_use() {
  time_use_.add(take_time_use(trainer_.clock, trainer_.grid));  // of steps since the last record
  if (time_use_.total > 0) say(time_use_text(time_use_));
}

void RunRecord::finish(const Evaluation& final_evaluation) {
  say_time_use();
  evaluation(trainer_.experiment.train().steps(), final_evaluation);
  if (!is_first_rank()) return;
  if (!final_evaluation.sources.empty()) {
    say("\n" + held_out_table(final_evaluation, trainer_.experiment));
    if (!trainer_.model.moe_layers().empty()) say(expert_tables(final_evaluation, trainer_.model));
    if (!is_regression(trainer_.experiment)) write_evaluation_table(final_evaluation);
  }
  write_report();
  say(fmt::format("done: {} steps; the run is in {}", trainer_.experiment.train().steps(),
                  trainer_.experiment.run().dir()));
}

void RunRecord::write_report() {
  if (!is_first_rank()) return;
  const std::filesystem::path run_dir = trainer_.experiment.run().dir();
  try {
    write_run_report(run_dir, run_report_path(run_dir));
  } catch (const std::exception& error) {
    warn(fmt::format("no report of the run: {}", error.what()));
  }
}

void RunRecord::write_evaluation_table(const Evaluation& evaluation) const {
  std::string table = fmt::format("source\tpath\theld_out_tokens\tloss\tbits_per_{}byte\n",
                                  predicts_masked(trainer_.experiment) ? "masked_" : "");
  for (const HeldOutSource& source : evaluation.sources) {
    const auto& sources = trainer_.dataset.sources();
    const auto info = std::ranges::find(sources, source.name, &data::SourceInfo::name);
    table += fmt::format("{}\t{}\t{}\t{:.6f}\t{:.6f}\n", source.name, info->path, source.targets,
                         source.loss(), bits_per_byte(source.loss()));
  }
  replace_file_durably(std::filesystem::path(trainer_.experiment.run().dir()) / "evaluation.tsv", table);
}

}  // namespace conclave
