// One rank's samples of one micro-batch.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "layers/tensor/tensor_view.h"

namespace conclave::data {

// B samples side by side: sequences of token ids, or of a regression rows of numbers. Keep one and load it
// again and again: it keeps its memory.
struct MicroBatch {
  std::vector<std::int32_t> tokens;   // [B, S]
  std::vector<std::int32_t> targets;  // [B, S]
  std::vector<std::int32_t> sources;  // [B], indices in data.train; empty of a regression
  std::vector<std::uint8_t> padding;  // [B, S], 1 where a sequence has ended; empty where none is short

  std::int64_t input_width = 0;  // I of a regression; 0: the samples are tokens
  std::int64_t output_width = 0;
  std::vector<float> inputs;   // [B, I]
  std::vector<float> outputs;  // [B, O]

  // uint8 [T]; empty where no sequence is short.
  ConstTensorView padding_view() const {
    return tensor_view(std::span<const std::uint8_t>(padding), {static_cast<std::int64_t>(padding.size())});
  }
  ConstTensorView source_view() const { return flat_view(sources); }  // int32 [B]
  // As the model takes them: int32 [T], T = B S, or fp32 [T, I] and [T, O], T = B.
  ConstTensorView input_view() const {
    return input_width > 0 ? matrix_view(inputs, input_width) : flat_view(tokens);
  }
  ConstTensorView target_view() const {
    return input_width > 0 ? matrix_view(outputs, output_width) : flat_view(targets);
  }

 private:
  static ConstTensorView flat_view(const std::vector<std::int32_t>& ids) {
    return tensor_view(std::span<const std::int32_t>(ids), {static_cast<std::int64_t>(ids.size())});
  }
  static ConstTensorView matrix_view(const std::vector<float>& values, std::int64_t width) {
    return tensor_view(std::span<const float>(values),
                       {static_cast<std::int64_t>(values.size()) / width, width});
  }
};

}  // namespace conclave::data
