#include "layers/parameter.h"

#include <algorithm>
#include <utility>

#include "comm/cuda/memory.h"
#include "layers/tensor/philox.h"

namespace conclave {

Parameter::Parameter(std::string name, Shape shape)
    : name_(std::move(name)),
      sharding_(Sharding::kReplicated),
      global_shape_(shape),
      local_rows_{0, shape[0]},
      trained_global_rows_{{0, shape[0]}},
      trained_local_rows_{{0, shape[0]}},
      value_(shape, DType::kFloat32),
      gradient_(shape, DType::kFloat32) {}

Parameter::Parameter(std::string name, Shape global_shape, Range local_experts)
    : name_(std::move(name)),
      sharding_(Sharding::kExpert),
      global_shape_(global_shape),
      local_rows_(local_experts),
      trained_global_rows_{{0, global_shape[0]}},
      trained_local_rows_{{0, local_experts.size()}},
      value_(global_shape.with_rows(local_experts.size()), DType::kFloat32),
      gradient_(global_shape.with_rows(local_experts.size()), DType::kFloat32) {}

void Parameter::initialise_normal(std::uint64_t seed, double standard_deviation) {
  const auto fill = [&](float* values, std::int64_t count, std::uint64_t substream) {
    const RandomStream random(seed, name_, substream);
#pragma omp parallel for
    for (std::int64_t i = 0; i < count; ++i) {
      values[i] = static_cast<float>(standard_deviation * random.normal(static_cast<std::uint64_t>(i)));
    }
  };
  float* values = mutable_value().data<float>();
  if (sharding_ == Sharding::kReplicated) {
    fill(values, value().elements(), 0);
    return;
  }
  const std::int64_t elements = global_shape_.row_elements();  // of one expert
  for (std::int64_t expert = local_rows_.begin; expert < local_rows_.end; ++expert) {
    fill(values + (expert - local_rows_.begin) * elements, elements, static_cast<std::uint64_t>(expert));
  }
}

void Parameter::move_to(const cuda::Stream& stream) {
  stream_ = &stream;
  for (Buffer* buffer : {&value_, &gradient_}) {
    Buffer moved(buffer->view().shape(), buffer->view().dtype(), stream.device());
    cuda::copy(stream, moved.view().raw(), buffer->view().raw(), buffer->view().values<float>().size_bytes());
    stream.synchronize();  // the source is given back now
    *buffer = std::move(moved);
  }
}

void Parameter::freeze_rows(Range global_rows) {
  CONCLAVE_CHECK(sharding_ == Sharding::kExpert || global_rows == (Range{0, global_shape_[0]}),
                 "rows [{}, {}) of {}: a replicated parameter is frozen as a whole", global_rows.begin,
                 global_rows.end, name_);
  std::vector<Range> still_trained;
  for (const Range& range : trained_global_rows_) {
    const Range before{range.begin, std::min(range.end, global_rows.begin)};
    const Range after{std::max(range.begin, global_rows.end), range.end};
    if (before.size() > 0) still_trained.push_back(before);
    if (after.size() > 0) still_trained.push_back(after);
  }
  trained_global_rows_ = std::move(still_trained);

  trained_local_rows_.clear();
  for (const Range& range : trained_global_rows_) {
    const Range held{std::max(range.begin, local_rows_.begin), std::min(range.end, local_rows_.end)};
    if (held.size() > 0) {
      trained_local_rows_.push_back({held.begin - local_rows_.begin, held.end - local_rows_.begin});
    }
  }
}

void Parameter::initialise_constant(float constant) {
  std::ranges::fill(mutable_value().values<float>(), constant);
}

void Parameter::zero_gradient() {
  zeros_are_due_ = true;
  if (exact_gradient_) exact_gradient_->clear();
}

TensorView Parameter::gradient() const {
  const TensorView gradient = gradient_.view();
  if (!zeros_are_due_) return gradient;
  zeros_are_due_ = false;
  if (stream_ != nullptr) {
    cuda::fill_with_zeros(*stream_, gradient.raw(),
                          static_cast<std::size_t>(gradient.elements()) * sizeof(float));
    return gradient;
  }
  float* elements = gradient.data<float>();
#pragma omp parallel for simd schedule(static)
  for (std::int64_t i = 0; i < gradient.elements(); ++i) elements[i] = 0.0F;
  return gradient;
}

Parameter::GradientTarget Parameter::gradient_target() {
  const GradientTarget target{gradient_.view(), !zeros_are_due_};
  zeros_are_due_ = false;
  return target;
}

void Parameter::fold_gradient() {
  if (!exact_gradient_) return;
  const TensorView sum_of_shard = gradient();
  if (stream_ != nullptr) stream_->synchronize();
  exact_gradient_->add(sum_of_shard.values<float>());
  zeros_are_due_ = true;
}

void Parameter::unfold_gradient() {
  if (!exact_gradient_) return;
  const TensorView sum = gradient();
  if (stream_ != nullptr) stream_->synchronize();
  exact_gradient_->round_to(sum.values<float>());
}

}  // namespace conclave
