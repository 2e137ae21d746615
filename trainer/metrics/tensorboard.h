// TensorBoard event files, written without TensorFlow.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>

#include "trainer/metrics/events.pb.h"
#include "trainer/metrics/step_record.h"

namespace conclave {

class TensorBoardWriter {
 public:
  // Starts a new file <run_dir>/tensorboard/events.out.tfevents.<time>.<host>.<process>. With resumed_step >
  // 0, TensorBoard is told to forget what earlier files say about later steps.
  TensorBoardWriter(const std::filesystem::path& run_dir, std::int64_t resumed_step);

  // Scalars train/*, moe/* (of layers and choices as moe/<name>/layer_<n>, /choice_<k>), performance/*, and
  // for each MoE layer the histogram moe/expert_load/layer_<n>: its axis is the expert's id, its height the
  // choices of that expert.
  void write(const StepRecord& record);
  // Scalars eval/loss, eval/bits_per_byte and the same of each source.
  void write(const EvaluationRecord& record);

  const std::filesystem::path& path() const { return path_; }

 private:
  void write_event(events::Event event);

  std::filesystem::path path_;
  std::ofstream stream_;
};

}  // namespace conclave
