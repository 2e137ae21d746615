#include "layers/ops/rotary/rotary.h"

#include <algorithm>
#include <cmath>

#include "layers/cuda/arguments.h"
#include "layers/ops/check_shape.h"

namespace conclave {
namespace {

void check(const RotaryArgs& args) {
  CONCLAVE_CHECK(args.table != nullptr, "rotary was called without its table");
  CONCLAVE_CHECK(args.x.shape().rank() == 3, "rotary takes [T, H, head_dim], found {}",
                 args.x.shape().text());
  CONCLAVE_CHECK_EQ(args.x.extent(2), args.table->head_dim(), "head_dim of rotary");
  const std::int64_t tokens = args.x.extent(0);
  if (tokens == 0) return;
  CONCLAVE_CHECK(args.sequence_length > 0 && tokens % args.sequence_length == 0,
                 "rotary got {} tokens, which are not whole sequences of {}", tokens, args.sequence_length);
  CONCLAVE_CHECK(
      args.first_position >= 0 && args.first_position + args.sequence_length <= args.table->max_seq(),
      "rotary got positions [{}, {}), and its table ends at max_seq = {}", args.first_position,
      args.first_position + args.sequence_length, args.table->max_seq());
}

void turn(const Context& ctx, const RotaryArgs& args, float direction) {
  if (ctx.on_gpu()) {
    cuda::rotary(cuda::stream_of(ctx), args.x.data<float>(), args.table->cosines(ctx).data<float>(),
                 args.table->sines(ctx).data<float>(), direction, args.x.extent(0), args.x.extent(1),
                 args.x.extent(2) / 2, args.sequence_length, args.first_position);
    return;
  }
  cpu::rotary(args, direction);
}

}  // namespace

RotaryTable::RotaryTable(std::int64_t max_seq, std::int64_t head_dim, double theta)
    : cosines_({max_seq, head_dim / 2}, DType::kFloat32), sines_({max_seq, head_dim / 2}, DType::kFloat32) {
  CONCLAVE_CHECK(head_dim % 2 == 0, "rotary embedding pairs the elements of a head: head_dim {} is odd",
                 head_dim);
  const std::int64_t half = head_dim / 2;
  float* cosines = cosines_.view().data<float>();
  float* sines = sines_.view().data<float>();
  for (std::int64_t i = 0; i < half; ++i) {
    const double frequency = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
    for (std::int64_t position = 0; position < max_seq; ++position) {
      const double angle = static_cast<double>(position) * frequency;
      cosines[position * half + i] = static_cast<float>(std::cos(angle));
      sines[position * half + i] = static_cast<float>(std::sin(angle));
    }
  }
}

RotaryTable::Views RotaryTable::on_gpu(const Context& ctx) const {
  if (!on_gpu_) {
    const auto copied = [&](const Buffer& buffer) {
      const std::span<const float> values = buffer.view().values<float>();
      Buffer copy(buffer.view().shape(), DType::kFloat32, ctx.gpu->device());
      ctx.gpu->staging().upload(copy.view().raw(), values.data(), values.size_bytes());
      return copy;
    };
    on_gpu_ = Copy{copied(cosines_), copied(sines_)};
  }
  return {on_gpu_->cosines.view(), on_gpu_->sines.view()};
}

void rotary(Context& ctx, const RotaryArgs& args) {
  check(args);
  turn(ctx, args, 1.0F);
}

void rotary_backward(Context& ctx, const RotaryArgs& args) {
  check(args);
  turn(ctx, args, -1.0F);
}

}  // namespace conclave
