#include "trainer/train_step.h"

#include <cmath>

#include "optim/gradient_clip.h"
#include "optim/schedule.h"

namespace conclave {

StepResult train_step(Trainer& trainer, std::int64_t step) {
  const config::Experiment& experiment = trainer.experiment;
  trainer.world.watchdog().set_step(step);
  for (Parameter* parameter : trainer.model.parameters()) parameter->zero_gradient();

  // Forward and backward, one micro-batch after the other. Every loss is divided by the
  // tokens of the global batch where it arises, so that gradients only have to be added:
  // over micro-batches here, over ranks below.
  double loss = 0;
  const int rank = trainer.world.rank();
  const data::BatchCut cut = batch_cut(experiment, trainer.world.size());
  const std::int64_t batch = trainer.batch_order.batch_of(step);
  for (std::int64_t micro_step = 0; micro_step < cut.micro_steps(); ++micro_step) {
    data::load_training(trainer.dataset, cut, batch, micro_step, rank, trainer.batch);
    const BatchPosition position =
        data::position_of(cut, step, micro_step, rank, trainer.dataset.sequence_length());

    Context ctx = trainer.context(position, /*training=*/true);
    const auto sum = trainer.model.forward(ctx, trainer.batch.token_view(), trainer.batch.target_view());
    trainer.model.backward(ctx);
    trainer.arena.reset();
    loss += sum.loss_sum / static_cast<double>(position.global_tokens());
  }

  trainer.world.watchdog().set_layer(-1);

  // Dense gradients are summed over the world, those of experts over the ranks that hold the same experts.
  trainer.gradient_reduction.reduce();
  trainer.world.all_reduce(buffer_view(std::span(&loss, 1)));

  StepResult result;
  result.loss = loss;
  result.gradient_norm = global_gradient_norm(trainer.model.parameters(), trainer.grid);
  result.learning_rate =
      learning_rate(experiment.schedule(), experiment.optim().lr(), experiment.train().steps(), step);

  // All numbers are the same on every rank, and so are the decisions.
  result.first_sample = batch * cut.global_batch;
  result.spike_limit = trainer.loss_window.limit();
  result.spike = result.loss > result.spike_limit;
  result.skipped = !std::isfinite(result.loss) || !std::isfinite(result.gradient_norm) ||
                   (result.spike && experiment.train().spike() != config::Train::keep);
  if (!result.skipped) {
    trainer.optimizer->update(result.learning_rate,
                              clip_scale(result.gradient_norm, experiment.optim().grad_clip()));
    Context ctx = trainer.context({.step = step}, /*training=*/true);
    trainer.model.end_step(ctx);  // routers that balance by a bias move it
    trainer.loss_window.add(result.loss);
  }
  return result;
}

}  // namespace conclave
