// A module's forward and backward as CUDA graphs: what they enqueue is recorded, and launched from then on
// without the host's work for each kernel.
//
// That needs a module whose shapes stay the same from one micro-batch to the next, which doesn't wait for the
// GPU, and whose kernels get no numbers from the host that change: random numbers, lengths, step counts. It
// keeps addresses in ctx.arena between forward and backward; a replay leaves them as they are, and so a
// forward is replayed only where they would be the same.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "comm/cuda/recording.h"
#include "layers/context.h"
#include "layers/parameter.h"

namespace conclave::cuda {

class ReplayedPasses {
 public:
  using Pass = std::function<TensorView()>;

  // The module's own parameters, which outlive the object. Their copies in other formats are up to date when
  // a pass begins.
  explicit ReplayedPasses(std::vector<Parameter*> parameters) : parameters_(std::move(parameters)) {}

  // compute() as it is called: `compute` itself where it is the first of its kind, else a recording of it.
  // Forward and backward in turn, in training, on ctx.gpu, without padding.
  TensorView forward(Context& ctx, ConstTensorView x, const Pass& compute);
  TensorView backward(Context& ctx, ConstTensorView dy, const Pass& compute);
  // The module's forward runs otherwise (evaluation), and so will the backward that follows it, if one does.
  void forget(const Context& ctx);

  std::int64_t replays() const { return replays_; }

 private:
  // Where a pass finds and leaves its tensors.
  struct Place {
    ConstTensorView input;
    Arena::Position arena;
    BatchPosition batch;  // without what random numbers are drawn by
    DType compute = DType::kFloat32;

    bool operator==(const Place& other) const;
  };
  // A pass, of which there are several at a place: the first of a step counts and adds from nothing.
  struct Kind {
    bool is_backward = false;
    bool is_first_of_step = false;
    std::vector<bool> zeros_due;  // by parameter

    friend bool operator==(const Kind&, const Kind&) = default;
  };
  struct Recorded {
    Recorded(Stream& stream, Place at, Kind of) : place(at), kind(std::move(of)), recording(stream) {}

    Place place;
    Kind kind;
    Recording recording;
    TensorView result;
    Arena::Position end;
    std::vector<bool> zeros_still_due;
  };

  static Place place_of(const Context& ctx, ConstTensorView input);
  Kind kind_of(const Context& ctx, bool is_backward) const;
  std::vector<bool> zeros_due() const;
  TensorView record_or_replay(Context& ctx, const Place& place, const Kind& kind, const Pass& compute);
  TensorView replay(Context& ctx, const Recorded& recorded);

  std::vector<Parameter*> parameters_;
  std::optional<Place> forward_place_;  // of the last forward; empty if it ran otherwise
  bool records_ = false;                // not where everything is new, and memory is taken from the system
  std::vector<std::unique_ptr<Recorded>> recorded_;
  std::int64_t replays_ = 0;
};

}  // namespace conclave::cuda
