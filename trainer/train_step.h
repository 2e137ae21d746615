// One optimizer step. If you read one file of Conclave, read train_step.cc.
#pragma once

#include <cstdint>
#include <functional>

#include "trainer/trainer.h"

namespace conclave {

struct StepResult {
  double loss = 0;          // mean cross-entropy over the global batch, nats per token, without balance terms
  std::int64_t tokens = 0;  // of the global batch, without padding
  double gradient_norm = 0;  // global, before clipping
  double learning_rate = 0;
  std::int64_t first_sample = 0;  // of the train.global_batch that were trained on
  double spike_limit = 0;         // loss above which the step is a spike (loss_spike.h)
  bool spike = false;
  bool skipped = false;  // loss or gradient was not finite, or a spike is not to be kept: nothing was updated
};

// Collective over the world: every rank gets the same result. `step` counts from 0. `look_at_gradients`,
// where given, is called once the gradients are complete, before they are clipped and used. A GPU may still
// be updating the values when it returns: whoever looks at them synchronizes the trainer first.
StepResult train_step(Trainer& trainer, std::int64_t step,
                      const std::function<void()>& look_at_gradients = {});

}  // namespace conclave
