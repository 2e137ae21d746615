// What a person sees while a run goes on: one line a log interval and, on a terminal, a live bar below it.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <ostream>
#include <string>

#include "trainer/metrics/step_record.h"

namespace conclave {

struct ConsoleStyle {
  bool live = false;    // redraw a bar in place
  bool colour = false;  // ANSI colours
  int columns = 80;     // of the terminal; longer bars would wrap

  // From the file behind `file` and the environment: live on a terminal (not TERM=dumb), in colour unless
  // NO_COLOR is set and not empty. Under mpirun the terminal is known by CONCLAVE_COLUMNS, its width.
  static ConsoleStyle detect(std::FILE* file);
};

// The text of a step's line, for example
//   step  120/1000  loss 2.1034 (3.035 bpb)  lr 9.8e-04  grad 0.812  84 ms  97.5k tok/s  load 1.32  drop 0.4%
//   exchange 6.1%  312 MiB  ETA 1m 14s
// without a newline. Loads, drops and exchange appear only where the model has experts. `eta_seconds` is left
// out if it is not known.
std::string step_line(const StepRecord& record, std::int64_t total_steps, bool tokens_are_bytes,
                      std::optional<double> eta_seconds);
// "eval  step 200  loss 1.6021 (2.311 bpb)  kjv 2.2 bpb ...", without a newline.
std::string evaluation_line(const EvaluationRecord& record);

class Console {
 public:
  // `out` must outlive the console. `first_step` is the step that the run starts from (for the ETA). A
  // `marker` that is not empty begins every line as "[marker] ".
  Console(std::ostream& out, ConsoleStyle style, std::int64_t total_steps, std::int64_t first_step,
          bool tokens_are_bytes, const std::string& marker = "");
  ~Console();
  Console(const Console&) = delete;
  Console& operator=(const Console&) = delete;

  // After every step: counts its time towards the ETA and redraws the bar. Costs microseconds; at most 10
  // redraws a second.
  void progress(std::int64_t step, double step_seconds);
  void write(const StepRecord& record);
  void write(const EvaluationRecord& record);
  // Lines above the bar. A warning is marked "warning:".
  void message(const std::string& text);
  void warning(const std::string& text);

 private:
  void print(const std::string& text);
  void draw_bar();
  void clear_bar();
  std::optional<double> eta_seconds() const;
  std::string coloured(const char* code, const std::string& text) const;

  std::ostream& out_;
  ConsoleStyle style_;
  std::int64_t total_steps_;
  std::int64_t step_;
  bool tokens_are_bytes_;
  std::string line_prefix_;
  double mean_step_seconds_ = 0;  // exponential mean
  bool has_mean_ = false;
  bool bar_is_drawn_ = false;
  std::chrono::steady_clock::time_point last_drawn_{};
};

}  // namespace conclave
