#include "trainer/loss_spike.h"

#include <cmath>
#include <limits>

namespace conclave {

double LossWindow::limit() const {
  if (losses_.size() < kLeastLosses) return std::numeric_limits<double>::infinity();
  const auto count = static_cast<double>(losses_.size());
  double sum = 0;
  for (const double loss : losses_) sum += loss;
  const double mean = sum / count;
  double squares = 0;
  for (const double loss : losses_) squares += (loss - mean) * (loss - mean);
  return mean + kDeviations * std::sqrt(squares / count);
}

void LossWindow::add(double loss) {
  if (losses_.size() == kMostLosses) losses_.erase(losses_.begin());
  losses_.push_back(loss);
}

}  // namespace conclave
