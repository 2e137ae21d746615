#include "layers/cuda/replayed_passes.h"

#include <algorithm>
#include <utility>

namespace conclave::cuda {

bool ReplayedPasses::Place::operator==(const Place& other) const {
  return input.raw() == other.input.raw() && input.shape() == other.input.shape() &&
         input.dtype() == other.input.dtype() && arena == other.arena && batch == other.batch &&
         compute == other.compute;
}

TensorView ReplayedPasses::forward(Context& ctx, ConstTensorView x, const Pass& compute) {
  const Place place = place_of(ctx, x);
  records_ = forward_place_ == place;
  if (!records_) forget(ctx);
  forward_place_ = place;
  return records_ ? record_or_replay(ctx, place, kind_of(ctx, /*is_backward=*/false), compute) : compute();
}

TensorView ReplayedPasses::backward(Context& ctx, ConstTensorView dy, const Pass& compute) {
  if (!records_) return compute();
  return record_or_replay(ctx, place_of(ctx, dy), kind_of(ctx, /*is_backward=*/true), compute);
}

void ReplayedPasses::forget(const Context& ctx) {
  forward_place_.reset();
  records_ = false;
  if (recorded_.empty()) return;
  ctx.synchronize();  // giving memory back waits for the GPU, which may wait for a lost rank
  recorded_.clear();
}

ReplayedPasses::Place ReplayedPasses::place_of(const Context& ctx, ConstTensorView input) {
  Place place{.input = input, .arena = ctx.arena->position(), .batch = ctx.batch, .compute = ctx.compute};
  place.batch.step = 0;
  place.batch.micro_step = 0;
  place.batch.first_sequence = 0;
  return place;
}

ReplayedPasses::Kind ReplayedPasses::kind_of(const Context& ctx, bool is_backward) const {
  return {.is_backward = is_backward,
          .is_first_of_step = ctx.batch.micro_step == 0,
          .zeros_due = is_backward ? zeros_due() : std::vector<bool>()};
}

std::vector<bool> ReplayedPasses::zeros_due() const {
  std::vector<bool> due;
  for (const Parameter* parameter : parameters_) due.push_back(parameter->zeros_are_due());
  return due;
}

TensorView ReplayedPasses::record_or_replay(Context& ctx, const Place& place, const Kind& kind,
                                            const Pass& compute) {
  const auto known = std::ranges::find_if(
      recorded_, [&](const auto& recorded) { return recorded->place == place && recorded->kind == kind; });
  if (known != recorded_.end()) return replay(ctx, **known);

  auto recorded = std::make_unique<Recorded>(ctx.gpu->stream(), place, kind);
  recorded->recording.record([&] { recorded->result = compute(); });
  recorded->end = ctx.arena->position();
  recorded->zeros_still_due = zeros_due();
  const bool is_in_one_block = recorded->end.block == place.arena.block &&
                               recorded->end.system_allocations == place.arena.system_allocations;
  const TensorView result = recorded->result;
  recorded_.push_back(std::move(recorded));
  if (!is_in_one_block) forget(ctx);  // the arena will lie elsewhere
  return result;
}

TensorView ReplayedPasses::replay(Context& ctx, const Recorded& recorded) {
  const Span span(ctx.clock, recorded.kind.is_backward ? "replay backward" : "replay", TimePart::kOther);
  recorded.recording.replay();
  ctx.arena->skip_to(recorded.end);
  for (std::size_t p = 0; p < parameters_.size(); ++p)
    if (recorded.kind.is_backward && !recorded.zeros_still_due[p]) parameters_[p]->gradient_was_written();
  ++replays_;
  return recorded.result;
}

}  // namespace conclave::cuda
