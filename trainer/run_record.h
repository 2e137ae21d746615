// Everything a run says and writes about itself: console, log files, metrics.jsonl,
// TensorBoard, final tables.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "trainer/checkpoint/checkpoint.h"
#include "trainer/evaluate.h"
#include "trainer/metrics/console.h"
#include "trainer/metrics/metrics_writer.h"
#include "trainer/metrics/run_log.h"
#include "trainer/metrics/tensorboard.h"
#include "trainer/metrics/time_use.h"
#include "trainer/train_step.h"
#include "trainer/trainer.h"

namespace conclave {

class RunRecord {
 public:
  // `trainer` must outlive the record. The run goes on after `first_step` completed steps: records of later
  // ones are removed.
  RunRecord(Trainer& trainer, std::int64_t first_step);

  // Rank 0's console and every rank's log file.
  void say(const std::string& text);
  void warn(const std::string& text);

  // Collective, after every step: redraws the bar and, every log.every steps, reduces the counters of all
  // ranks and writes a record.
  void step(std::int64_t step, const StepResult& result, double step_seconds);
  void evaluation(std::int64_t completed_steps, const Evaluation& evaluation);
  // How long a save has kept training from going on; the whole of it, unless it runs beside training.
  void save_began(std::int64_t completed_steps, double stalled_seconds);
  void waited_for_save(std::int64_t completed_steps, double seconds);
  // A save has ended, well or not.
  void saved(const SaveResult& result);
  // Collective. The run goes on after `first_step` completed steps once more.
  void rewind(std::int64_t first_step);
  // Collective: what the time of this process's steps went into.
  void say_time_use();
  // Collective. Says what the time went into; then the last evaluation: records it, prints the tables, writes
  // evaluation.tsv and report.html.
  void finish(const Evaluation& evaluation);
  // Rank 0 writes report.html of what is recorded so far; that it can't is said and ends nothing.
  void write_report();

 private:
  StepRecord reduced_record(std::int64_t completed_steps, const StepResult& result);
  void write_evaluation_table(const Evaluation& evaluation) const;
  void open_records(std::int64_t first_step);
  void report_unusual(std::int64_t step, const StepResult& result);
  bool is_first_rank() const { return trainer_.world.rank() == 0; }

  Trainer& trainer_;
  std::unique_ptr<Console> console_;  // rank 0
  RunLog log_;
  std::optional<MetricsWriter> metrics_;          // rank 0
  std::optional<TensorBoardWriter> tensorboard_;  // rank 0, by option

  // Since the last record.
  std::int64_t steps_ = 0;
  std::int64_t tokens_ = 0;
  double seconds_ = 0;
  TimeUse time_use_;                // since the start
  std::int64_t skipped_steps_ = 0;  // since the start
  std::int64_t failed_saves_ = 0;   // since the start
};

}  // namespace conclave
