#include "trainer/data/masking.h"

#include <algorithm>
#include <cmath>

#include "trainer/data/dataset.h"

namespace conclave::data {
namespace {

constexpr float kMasked = 0.8F;
constexpr float kMaskedOrRandom = 0.9F;

}  // namespace

Masking::Masking(const config::Experiment& experiment)
    : fraction_(experiment.train().mask_fraction()),
      mask_token_(static_cast<std::int32_t>(experiment.model().vocab_size() - 1)) {}

std::int64_t Masking::predicted(std::int64_t places) const {
  const auto rounded = static_cast<std::int64_t>(std::llround(fraction_ * static_cast<double>(places)));
  return std::clamp<std::int64_t>(rounded, 1, places);
}

void Masking::apply(const RandomStream& random, Range candidates, std::span<std::int32_t> tokens,
                    std::span<std::int32_t> targets) const {
  std::ranges::fill(targets, kIgnoredTarget);
  const auto length = static_cast<std::uint64_t>(tokens.size());
  // Each place is taken with probability (still to take) / (places left): every set of places is equally
  // likely (selection sampling, Fan et al. 1962).
  std::int64_t to_take = predicted(candidates.size());
  for (std::int64_t place = candidates.begin; place < candidates.end; ++place) {
    const auto i = static_cast<std::uint64_t>(place);
    const auto left = static_cast<double>(candidates.end - place);
    if (static_cast<double>(random.uniform(i)) * left >= static_cast<double>(to_take)) continue;
    --to_take;
    std::int32_t& token = tokens[i];
    targets[i] = token;
    const float fate = random.uniform(length + i);
    if (fate < kMasked) {
      token = mask_token_;
    } else if (fate < kMaskedOrRandom) {
      token =
          static_cast<std::int32_t>(random.bits(2 * length + i) % static_cast<std::uint32_t>(mask_token_));
    }
  }
}

}  // namespace conclave::data
