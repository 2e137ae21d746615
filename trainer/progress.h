// A trainer's place in its run, beside its tensors, to and from what a checkpoint stores.
#pragma once

#include <cstdint>

#include "trainer/checkpoint/checkpoint.h"
#include "trainer/trainer.h"

namespace conclave {

TrainingProgress progress_after(const Trainer& trainer, std::int64_t completed_steps);

// After the tensors have been loaded.
void go_on_from(Trainer& trainer, const TrainingProgress& progress);

}  // namespace conclave
