#include "trainer/train_step.h"

#include <cmath>

#include "optim/gradient_clip.h"
#include "optim/schedule.h"

namespace conclave {

StepResult train_step(Trainer& trainer, std::int64_t step) {
  const config::Experiment& experiment = trainer.experiment;
  for (Parameter* parameter : trainer.model.parameters()) parameter->zero_gradient();

  // Forward and backward, one micro-batch after the other. Every loss is divided by the
  // tokens of the global batch where it arises, so that gradients only have to be added:
  // over micro-batches here, over ranks below.
  double loss = 0;
  const int rank = trainer.world.rank();
  const data::BatchCut cut = batch_cut(experiment, trainer.world.size());
  for (std::int64_t micro_step = 0; micro_step < cut.micro_steps(); ++micro_step) {
    data::load_training(trainer.dataset, cut, step, micro_step, rank, trainer.batch);
    const BatchPosition position =
        data::position_of(cut, step, micro_step, rank, trainer.dataset.sequence_length());

    Context ctx = trainer.context(position, /*training=*/true);
    ctx.source_of_sequence = trainer.batch.source_view();
    const auto sum = trainer.model.forward(ctx, trainer.batch.token_view(), trainer.batch.target_view());
    trainer.model.backward(ctx);
    trainer.arena.reset();
    loss += sum.loss_sum / static_cast<double>(position.global_tokens());
  }

  // Dense gradients are summed over the world, those of experts over the ranks that hold the same experts.
  trainer.gradient_reduction.reduce();
  trainer.world.all_reduce(buffer_view(std::span(&loss, 1)));

  StepResult result;
  result.loss = loss;
  result.gradient_norm = global_gradient_norm(trainer.ownership);
  result.learning_rate =
      learning_rate(experiment.schedule(), experiment.optim().lr(), experiment.train().steps(), step);

  // Both numbers are the same on every rank, and so is the decision.
  result.skipped = !std::isfinite(result.loss) || !std::isfinite(result.gradient_norm);
  if (!result.skipped) {
    trainer.optimizer->update(result.learning_rate,
                              clip_scale(result.gradient_norm, experiment.optim().grad_clip()));
    trainer.value_gather.gather();  // optim.zero: each rank updated the rows that it owns
    Context ctx = trainer.context({.step = step}, /*training=*/true);
    trainer.model.end_step(ctx);  // routers that balance by a bias move it
  }
  return result;
}

}  // namespace conclave
