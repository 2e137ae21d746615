#include "trainer/progress.h"

#include "configs/show.h"

namespace conclave {

TrainingProgress progress_after(const Trainer& trainer, std::int64_t completed_steps) {
  const config::Experiment& experiment = trainer.experiment;
  const std::int64_t global_batch = experiment.train().global_batch();
  const auto losses = trainer.loss_window.losses();
  const auto left_out = trainer.batch_order.left_out();
  return {.step = completed_steps,
          .tokens = trainer.trained_tokens,
          .next_sample = trainer.batch_order.batch_of(completed_steps) * global_batch,
          .optimizer_updates = trainer.optimizer->updates(),
          .seed = experiment.run().seed(),
          .resolved_config = config::to_yaml(experiment),
          .recent_losses = {losses.begin(), losses.end()},
          .left_out_batches = {left_out.begin(), left_out.end()}};
}

void go_on_from(Trainer& trainer, const TrainingProgress& progress) {
  trainer.optimizer->set_updates(progress.optimizer_updates);
  trainer.trained_tokens = progress.tokens;
  trainer.loss_window.restore(progress.recent_losses);
  trainer.batch_order.restore(progress.left_out_batches);
}

}  // namespace conclave
