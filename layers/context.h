// What every module and operator is told about the run: no globals, no singletons.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "comm/process_grid.h"
#include "layers/cuda/engine.h"
#include "layers/step_clock.h"
#include "layers/tensor/arena.h"

namespace conclave {

class Parameter;
struct RoutingSums;

// Which part of which global batch is being computed. T = sequences * sequence_length tokens on this rank.
struct BatchPosition {
  std::int64_t step = 0;             // optimizer step
  std::int64_t micro_step = 0;       // 0 .. micro_steps - 1
  std::int64_t micro_steps = 1;      // of this optimizer step
  std::int64_t first_sequence = 0;   // of this rank and micro-batch, counted over the global batch
  std::int64_t sequences = 0;        // on this rank, in this micro-batch; may be 0
  std::int64_t sequence_length = 0;  // S
  std::int64_t most_sequences = 0;   // of any rank in this micro-batch; what shapes are agreed on by
  std::int64_t global_sequences =
      0;  // over all ranks and micro-batches of the step: what means are taken over

  std::int64_t global_padding_tokens = 0;  // of those sequences: inputs shorter than sequence_length

  std::int64_t global_targets = 0;  // of the step, where only some tokens are predicted; 0: every token

  std::int64_t tokens() const { return sequences * sequence_length; }
  // What the loss of a step is divided by.
  std::int64_t loss_targets() const { return global_targets > 0 ? global_targets : global_tokens(); }
  // What every other mean of a step is taken over: padding is not counted.
  std::int64_t global_tokens() const { return global_sequences * sequence_length - global_padding_tokens; }
  // Token 0 of this micro-batch, counted over the whole run: the same token has the same number in every
  // layout, which is what random numbers are drawn by.
  std::int64_t first_token_of_run() const {
    return (step * global_sequences + first_sequence) * sequence_length;
  }

  friend bool operator==(const BatchPosition&, const BatchPosition&) = default;
};

// Whoever wants to know early that gradients are complete.
class GradientListener {
 public:
  virtual ~GradientListener() = default;
  // Nothing will be added any more to the gradients of `parameters` in this step, on this rank.
  virtual void gradients_complete(std::span<Parameter* const> parameters) = 0;
};

struct Context {
  cuda::Engine* gpu = nullptr;  // that operators enqueue their work on; null: they compute on the host
  Arena* arena = nullptr;       // activations of this micro-batch, in the memory of the GPU, if there is one
  const ProcessGrid* grid = nullptr;
  StepClock* clock = nullptr;       // optional
  DType compute = DType::kFloat32;  // of products and of the experts' activations: fp32 or bf16
  bool training = true;             // false: nothing is saved for backward, no tokens are dropped, no noise
  // This forward was computed before and forgotten (train.recompute): it computes the same again, and what
  // counts or remembers it must do so once only.
  bool recomputing = false;
  BatchPosition batch = {};
  GradientListener* gradient_listener = nullptr;  // optional; told in the last backward of a step
  std::int64_t layer = -1;  // block of the model that is being computed, from 0; -1: none
  // The ids of the tokens of this micro-batch, int32 [T]; empty where the input is not tokens.
  ConstTensorView token_ids = {};
  // Where kernels add up what routers tell of their tokens (layers/moe/gpu_tally.h); null: nobody asks.
  const RoutingSums* routing_sums = nullptr;
  // Which of them are padding, uint8 [T], 1 for padding; empty where none is. It ends its sequence, so that
  // causal attention never sees it from a real token; attention over the whole sequence has to mask it.
  ConstTensorView padding = {};

  // The source (its index in data.train) of each sequence of this micro-batch, int32 [sequences]; empty where
  // it isn't known.
  ConstTensorView source_of_sequence = {};

  bool on_gpu() const { return gpu != nullptr; }
  // Whoever reads or writes a tensor on the host calls this first: until then work that is enqueued may still
  // use it. Does nothing without a GPU.
  void synchronize() const {
    if (gpu != nullptr) gpu->stream().synchronize();
  }

  // For modules that compute for long while rows travel (layers/moe/round_trip.h): between their products.
  void progress() const {
    if (grid == nullptr) return;
    const Span span(clock, "progress", TimePart::kExchange);
    grid->expert_parallel().progress();
  }

  bool is_padding(std::int64_t token) const {
    return padding.elements() > 0 && padding.data<std::uint8_t>()[token] != 0;
  }
  std::int64_t padding_tokens() const {
    if (padding.elements() == 0) return 0;
    const std::uint8_t* is = padding.data<std::uint8_t>();
    return std::count_if(is, is + padding.elements(), [](std::uint8_t flag) { return flag != 0; });
  }
};

}  // namespace conclave
