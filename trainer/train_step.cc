#include "trainer/train_step.h"

#include <cmath>

#include "comm/cuda/memory.h"
#include "optim/gradient_clip.h"
#include "optim/schedule.h"

namespace conclave {
namespace {

// The loss of a step, from micro-batches and ranks. Where every layout must get the same bits it is added up
// in integers, multiples of 2^-40, whose sum doesn't depend on the order; elsewhere as it comes.
class LossSum {
 public:
  explicit LossSum(config::Run::Determinism determinism)
      : is_exact_(determinism == config::Run::cross_layout) {}

  void add(double loss) {
    sum_ += loss;
    if (is_exact_ && std::abs(loss) < kLargest) exact_sum_ += std::llrint(loss * kScale);
  }
  // Collective.
  double over_ranks(Communicator& world) {
    world.all_reduce(buffer_view(std::span(&sum_, 1)));
    if (!is_exact_ || !(std::abs(sum_) < kLargest)) return sum_;  // NaN and infinity stay what they are
    world.all_reduce(buffer_view(std::span(&exact_sum_, 1)));
    return static_cast<double>(exact_sum_) / kScale;
  }

 private:
  static constexpr double kScale = 0x1p40;
  static constexpr double kLargest = 0x1p20;
  bool is_exact_;
  double sum_ = 0;
  std::int64_t exact_sum_ = 0;
};

// Of micro-batch `micro_step`, whose arena is about to be used again; a GPU may still be computing it.
void keep_loss(Trainer& trainer, const Context& ctx, std::int64_t micro_step, const DeferredSum& loss) {
  double* place = trainer.losses.view().data<double>() + micro_step;
  if (loss.cell() != nullptr) {
    cuda::copy(ctx.gpu->stream(), place, loss.cell(), sizeof(double));
  } else {
    *place = loss;
  }
}

}  // namespace

StepResult train_step(Trainer& trainer, std::int64_t step, const std::function<void()>& look_at_gradients) {
  const config::Experiment& experiment = trainer.experiment;
  trainer.world.watchdog().set_step(step);
  const Span span(&trainer.clock, "step", TimePart::kOther, ComparedCall::kNone, step);
  for (Parameter* parameter : trainer.model.parameters()) parameter->zero_gradient();

  // Forward and backward, one micro-batch after the other. Every loss is divided by the
  // targets of the global batch where it arises, so that gradients only have to be added:
  // over micro-batches here, over ranks below.
  const int rank = trainer.world.rank();
  const data::BatchCut cut = batch_cut(experiment, trainer.world.size());
  const std::int64_t batch = trainer.batch_order.batch_of(step);
  const std::int64_t padding_tokens = data::padding_tokens(trainer.dataset, cut, batch);
  double loss_targets = 1;  // of the step
  for (std::int64_t micro_step = 0; micro_step < cut.micro_steps(); ++micro_step) {
    {
      const Span load(&trainer.clock, "data", TimePart::kData);
      data::load_training(trainer.dataset, cut, batch, micro_step, rank, trainer.batch);
    }
    BatchPosition position =
        data::position_of(cut, step, micro_step, rank, trainer.dataset.sequence_length());
    position.global_padding_tokens = padding_tokens;
    position.global_targets = trainer.dataset.masked_targets(position.global_sequences);

    Context ctx = trainer.context(position, /*training=*/true);
    const bool is_last = micro_step + 1 == cut.micro_steps();
    if (is_last) ctx.gradient_listener = &trainer.gradient_reduction;  // starts while backward goes on
    ctx.padding = trainer.batch.padding_view();
    ctx.source_of_sequence = trainer.batch.source_view();
    const std::int64_t allocations = trainer.arena.system_allocations();
    const auto sum = trainer.model.forward(ctx, trainer.batch.input_view(), trainer.batch.target_view());
    trainer.routing_recorder.after_forward(position, trainer.batch);
    trainer.model.backward(ctx);
    for (Parameter* parameter : trainer.model.parameters()) parameter->fold_gradient();
    keep_loss(trainer, ctx, micro_step, sum.loss_sum);
    loss_targets = static_cast<double>(position.loss_targets());
    // Giving memory back waits for the GPU, which may wait for a lost rank: so that the watchdog sees it.
    if (trainer.arena.system_allocations() != allocations) ctx.synchronize();
    trainer.arena.reset();  // for what is enqueued next, where a GPU computes
  }
  trainer.world.watchdog().set_layer(-1);

  // Dense gradients are summed over the world, those of experts over the ranks that hold the same experts.
  {
    const Span reduce(&trainer.clock, "sum of gradients", TimePart::kReduction, ComparedCall::kReduction);
    trainer.gradient_reduction.reduce();
  }
  if (look_at_gradients) look_at_gradients();

  StepResult result;
  {
    const Span norm(&trainer.clock, "gradient norm", TimePart::kOptimizer);
    result.gradient_norm = trainer.gradient_norm.compute();
  }
  // The norm is what the host waits for; the losses were there before.
  LossSum loss(experiment.run().determinism());
  for (const double sum : trainer.losses.view().values<double>()) loss.add(sum / loss_targets);
  {
    const Span reduce(&trainer.clock, "sum of losses", TimePart::kReduction, ComparedCall::kReduction);
    result.loss = loss.over_ranks(trainer.world);
  }
  result.tokens = cut.global_batch * trainer.dataset.sequence_length() - padding_tokens;
  result.learning_rate =
      learning_rate(experiment.schedule(), experiment.optim().lr(), experiment.train().steps(), step);

  trainer.trained_tokens += result.tokens;

  // All numbers are the same on every rank, and so are the decisions.
  result.first_sample = batch * cut.global_batch;
  result.spike_limit = trainer.loss_window.limit();
  result.spike = result.loss > result.spike_limit;
  result.skipped = !std::isfinite(result.loss) || !std::isfinite(result.gradient_norm) ||
                   (result.spike && experiment.train().spike() != config::Train::keep);
  if (!result.skipped) {
    {
      const Span update(&trainer.clock, "optimizer", TimePart::kOptimizer);
      trainer.optimizer->update(result.learning_rate,
                                clip_scale(result.gradient_norm, experiment.optim().grad_clip()));
    }
    {
      const Span gather(&trainer.clock, "gather of values", TimePart::kReduction, ComparedCall::kReduction);
      trainer.value_gather.gather();  // optim.zero: each rank updated the rows that it owns
    }
    Context ctx = trainer.context({.step = step}, /*training=*/true);
    trainer.model.end_step(ctx);  // routers that balance by a bias move it
    trainer.loss_window.add(result.loss);
  }
  return result;
}

}  // namespace conclave
