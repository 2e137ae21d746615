#include "optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace conclave {

double learning_rate(const config::Schedule& schedule, double peak, std::int64_t steps, std::int64_t step) {
  const std::int64_t warmup = schedule.warmup_steps();
  if (step < warmup) return peak * static_cast<double>(step + 1) / static_cast<double>(warmup + 1);

  const double lowest = peak * schedule.min_lr_fraction();
  const auto progress = [&](std::int64_t first, std::int64_t last) {
    const auto span = static_cast<double>(std::max<std::int64_t>(1, last - first));
    return std::clamp(static_cast<double>(step - first) / span, 0.0, 1.0);
  };
  switch (schedule.kind()) {
    case config::Schedule::constant:
      return peak;
    case config::Schedule::linear:
      return peak + (lowest - peak) * progress(warmup, steps - 1);
    case config::Schedule::cosine:
      return lowest +
             (peak - lowest) * 0.5 * (1.0 + std::cos(std::numbers::pi * progress(warmup, steps - 1)));
    case config::Schedule::wsd: {
      const auto decay_steps =
          static_cast<std::int64_t>(std::llround(schedule.decay_fraction() * static_cast<double>(steps)));
      const std::int64_t decay_start = std::max(warmup, steps - 1 - decay_steps);
      return peak + (lowest - peak) * progress(decay_start, steps - 1);
    }
  }
  return peak;
}

}  // namespace conclave
