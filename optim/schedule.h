// The learning rate as a function of the step.
#pragma once

#include <cstdint>

#include "configs/run.pb.h"

namespace conclave {

// The rate of optimizer step `step` (from 0) in a run of `steps` steps. With w = warmup_steps, p the peak
// rate, m = p * min_lr_fraction and x = (step - w) / max(1, steps - 1 - w) in [0, 1]:
//   step < w   p * (step + 1) / (w + 1)
//   constant   p
//   linear     p + (m - p) x
//   cosine     m + (p - m) (1 + cos(pi x)) / 2
//   wsd        p until the last decay_fraction of all steps, then linear to m at the last step
//              (Hu et al., "MiniCPM", 2024)
double learning_rate(const config::Schedule& schedule, double peak, std::int64_t steps, std::int64_t step);

}  // namespace conclave
