// A run directory with small checkpoints of one process.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "comm/process_grid.h"
#include "comm/self/self_communicator.h"
#include "tests/support/checkpoint_tensors.h"
#include "tests/support/temporary_directory.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/checkpoint_saver.h"

namespace conclave::test {

class CheckpointCase {
 public:
  static constexpr std::int64_t kExperts = 5;
  static constexpr const char* kConfig =
      "run:\n  name: test\ndata:\n  train:\n    - {name: text, path: text.txt}\n";

  CheckpointCase() : world_(make_self_communicator()), grid_(*world_, 1), tensors_(kExperts, {0, kExperts}) {}

  const std::filesystem::path& run_dir() const { return directory_.path(); }
  std::filesystem::path checkpoints() const { return run_dir() / "checkpoints"; }
  const ProcessGrid& grid() const { return grid_; }
  const std::vector<ShardedTensor>& tensors() const { return tensors_.tensors(); }

  // The tensors of a save are told by `value`; a background save changes them as soon as it may.
  SaveResult save(std::int64_t step, float value, std::int64_t keep = 2,
                  CheckpointSaver::Mode mode = CheckpointSaver::Mode::kBlocking) {
    CheckpointSaver saver(grid_, run_dir(), keep, mode);
    tensors_.fill(value);
    saver.begin({step, step * 100, step * 4, step, 42, kConfig}, tensors_.tensors());
    if (mode == CheckpointSaver::Mode::kBackground) tensors_.clear();
    return *saver.finish();
  }

  ResumeResult resume() {
    tensors_.clear();
    return resume_newest(*world_, run_dir(), tensors_.tensors(), [](const TrainingProgress&) {});
  }
  TrainingProgress load(const std::filesystem::path& checkpoint) {
    tensors_.clear();
    return load_checkpoint(*world_, checkpoint, tensors_.tensors());
  }
  void set_values(float value) { tensors_.fill(value); }
  bool holds(float value) const { return tensors_.is_filled(value); }

  // What stands in checkpoints/ beside checkpoints.
  std::vector<std::string> strangers() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(checkpoints())) {
      const std::string name = entry.path().filename().string();
      if (!name.starts_with("step_") || name.find('.') != std::string::npos) names.push_back(name);
    }
    return names;
  }

 private:
  TemporaryDirectory directory_;
  std::unique_ptr<Communicator> world_;
  ProcessGrid grid_;
  CheckpointTensors tensors_;
};

}  // namespace conclave::test
