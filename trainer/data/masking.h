// Masked prediction (Devlin et al., "BERT", 2019): some tokens of a sequence are predicted from the others on
// both sides. Of those, 80 % are replaced by the mask token, 10 % by a random other id and 10 % stay as they
// are, so that the model can't rely on the mask token to tell it where to look.
#pragma once

#include <cstdint>
#include <span>

#include "comm/base/partition.h"
#include "configs/run.pb.h"
#include "layers/tensor/philox.h"

namespace conclave::data {

class Masking {
 public:
  // train.mask_fraction of the tokens is predicted; the mask token is the last id of the vocabulary.
  explicit Masking(const config::Experiment& experiment);

  // How many of `places` tokens are predicted: max(1, round(fraction * places)), the same for every sequence
  // of one length, so that the tokens that a step's mean is taken over are known before it is computed.
  std::int64_t predicted(std::int64_t places) const;

  // tokens [S] hold the text. Chooses predicted(candidates.size()) of the places `candidates`, writes their
  // tokens to `targets` [S] and replaces them; every other target becomes kIgnoredTarget. A pure function of
  // the text and `random`, which must be this sequence's own.
  void apply(const RandomStream& random, Range candidates, std::span<std::int32_t> tokens,
             std::span<std::int32_t> targets) const;

 private:
  double fraction_;
  std::int32_t mask_token_;  // ids below it are text
};

}  // namespace conclave::data
