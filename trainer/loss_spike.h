// When a step's loss is a spike: above the mean by 6 standard deviations of the last 128 losses.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace conclave {

// The losses of the last steps whose updates were made, the newest last: what the rule looks at. It is part
// of a checkpoint, so that a resumed run decides as the undisturbed one.
class LossWindow {
 public:
  static constexpr std::size_t kMostLosses = 128;
  static constexpr std::size_t kLeastLosses = 32;  // fewer say too little about what is usual
  static constexpr double kDeviations = 6;

  // mean + 6 standard deviations (of the window itself, not of a population behind it); infinite with fewer
  // than kLeastLosses.
  double limit() const;
  bool is_spike(double loss) const { return loss > limit(); }
  void add(double loss);

  std::span<const double> losses() const { return losses_; }
  void restore(std::span<const double> losses) { losses_.assign(losses.begin(), losses.end()); }

 private:
  std::vector<double> losses_;
};

}  // namespace conclave
