#include "optim/adamw.h"

#include <algorithm>
#include <cmath>

#include "configs/resolve.h"
#include "optim/cuda/kernels.h"

namespace conclave {
namespace {

// Below this, waking threads costs more than the update.
constexpr std::int64_t kParallelElements = 32 * 1024;

std::int64_t kind_of(const Parameter& parameter) {
  return (parameter.sharding() == Sharding::kExpert ? 2 : 0) + (parameter.decays ? 1 : 0);
}

}  // namespace

struct AdamW::Coefficients : cuda::AdamWCoefficients {
  // One pass over memory: reads four streams, writes three.
  void update(std::span<const float> gradient, std::span<float> values, float* m, float* v) const {
    const auto count = static_cast<std::int64_t>(values.size());
    const float* g_of = gradient.data();
    float* value = values.data();
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) {
      const float g = g_of[i] * gradient_scale;
      m[i] = beta1 * m[i] + one_minus_beta1 * g;
      v[i] = beta2 * v[i] + one_minus_beta2 * (g * g);
      const float denominator = std::sqrt(v[i]) * second_moment_root_scale + eps;
      value[i] = kept * value[i] - step_size * m[i] / denominator;
    }
  }
};

AdamW::AdamW(const config::Optim& options, const Ownership& ownership)
    : sharded_(ownership.sharded()),
      gpu_(ownership.gpu()),
      beta1_(config::betas(options).first),
      beta2_(config::betas(options).second),
      eps_(options.eps()),
      dense_{.lr_multiplier = 1, .weight_decay = options.weight_decay()},
      experts_{.lr_multiplier = options.expert_lr_multiplier(),
               .weight_decay = config::expert_weight_decay(options)} {
  slots_.reserve(ownership.parameters().size());
  for (const OwnedParameter& owned : ownership.parameters()) {
    const Shape shape{owned.mine.size(), owned.columns};
    const Device device = gpu_ != nullptr ? gpu_->device() : Device();
    slots_.push_back(
        {&owned, Buffer(shape, DType::kFloat32, device), Buffer(shape, DType::kFloat32, device)});
  }
}

AdamW::Coefficients AdamW::coefficients_of(const Group& group, bool decays, double learning_rate,
                                           double gradient_scale) const {
  const auto t = static_cast<double>(updates_);
  const double rate = learning_rate * group.lr_multiplier;
  return {{
      .gradient_scale = static_cast<float>(gradient_scale),
      .beta1 = static_cast<float>(beta1_),
      .one_minus_beta1 = static_cast<float>(1.0 - beta1_),
      .beta2 = static_cast<float>(beta2_),
      .one_minus_beta2 = static_cast<float>(1.0 - beta2_),
      .step_size = static_cast<float>(rate / (1.0 - std::pow(beta1_, t))),
      .second_moment_root_scale = static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(beta2_, t))),
      .eps = static_cast<float>(eps_),
      .kept = decays ? static_cast<float>(1.0 - rate * group.weight_decay) : 1.0F,
  }};
}

void AdamW::update(double learning_rate, double gradient_scale) {
  ++updates_;
  if (gpu_ != nullptr) return update_on_gpu(learning_rate, gradient_scale);
  for (Slot& slot : slots_) {
    const OwnedParameter& owned = *slot.owned;
    Parameter& parameter = *owned.parameter;
    const Coefficients coefficients =
        coefficients_of(group_of(parameter), parameter.decays, learning_rate, gradient_scale);
    begin_update(parameter);
    const TensorView value = parameter.mutable_value();
    for (const Range& rows : owned.trained) update_rows(slot, rows, coefficients, value);
    for (ValueFollower* follower : following_) follower->end_update();
  }
}

void AdamW::update_on_gpu(double learning_rate, double gradient_scale) {
  if (pieces_.view().raw() == nullptr) lay_out_pieces();
  cuda::AdamWCoefficientsByKind coefficients{};
  for (Slot& slot : slots_) {
    Parameter& parameter = *slot.owned->parameter;
    parameter.gradient();  // writes zeros that are due
    parameter.mutable_value();
    coefficients.of_kind[kind_of(parameter)] =
        coefficients_of(group_of(parameter), parameter.decays, learning_rate, gradient_scale);
  }
  cuda::adamw(gpu_->stream().handle(), coefficients,
              static_cast<const cuda::AdamWPiece*>(pieces_.view().raw()), pieces_count_);
}

// Values, gradients and moments stay where they are from now on.
void AdamW::lay_out_pieces() {
  std::vector<cuda::AdamWPiece> pieces;
  for (const Slot& slot : slots_) {
    const OwnedParameter& owned = *slot.owned;
    const ConstTensorView gradient = owned.parameter->gradient();
    const TensorView value = owned.parameter->mutable_value();
    for (const Range& rows : owned.trained) {
      const float* g = owned.elements(gradient, rows).data();
      float* p = owned.elements(value, rows).data();
      const std::int64_t offset = (rows.begin - owned.mine.begin) * owned.columns;  // in the state
      float* m = slot.first_moment.view().data<float>() + offset;
      float* v = slot.second_moment.view().data<float>() + offset;
      const std::int64_t count = rows.size() * owned.columns;
      for (std::int64_t at = 0; at < count; at += cuda::kAdamWElementsOfPiece) {
        pieces.push_back({g + at, p + at, m + at, v + at, std::min(cuda::kAdamWElementsOfPiece, count - at),
                          kind_of(*owned.parameter)});
      }
    }
  }
  const std::size_t bytes = pieces.size() * sizeof(cuda::AdamWPiece);
  pieces_ = Buffer({static_cast<std::int64_t>(bytes)}, DType::kUInt8, gpu_->device());
  gpu_->staging().upload(pieces_.view().raw(), pieces.data(), bytes);
  pieces_count_ = std::ssize(pieces);
}

void AdamW::begin_update(const Parameter& parameter) {
  following_.clear();
  if (sharded_) return;  // rows that others own arrive later
  for (ValueFollower* follower : parameter.followers()) {
    if (follower->begin_update()) following_.push_back(follower);
  }
}

// In blocks of rows of one expert that stay in the cache for those who follow.
void AdamW::update_rows(const Slot& slot, Range rows, const Coefficients& coefficients, TensorView value) {
  const OwnedParameter& owned = *slot.owned;
  const TensorView gradient = owned.parameter->gradient();
  const TensorView first_moment = slot.first_moment.view();
  const TensorView second_moment = slot.second_moment.view();
  constexpr std::int64_t kBlock = ValueFollower::kRowsAtOnce;
  const std::int64_t blocks_of_unit = (owned.unit_rows + kBlock - 1) / kBlock;
  const Range units{rows.begin / owned.unit_rows, (rows.end + owned.unit_rows - 1) / owned.unit_rows};
#pragma omp parallel for schedule(static) if (rows.size() * owned.columns >= kParallelElements)
  for (std::int64_t i = units.begin * blocks_of_unit; i < units.end * blocks_of_unit; ++i) {
    const std::int64_t first_of_unit = i / blocks_of_unit * owned.unit_rows;
    const std::int64_t first = first_of_unit + i % blocks_of_unit * kBlock;
    const Range block{std::max(first, rows.begin),
                      std::min({first + kBlock, first_of_unit + owned.unit_rows, rows.end})};
    if (block.size() <= 0) continue;
    const std::int64_t offset = (block.begin - owned.mine.begin) * owned.columns;  // in the state
    coefficients.update(owned.elements(ConstTensorView(gradient), block), owned.elements(value, block),
                        first_moment.data<float>() + offset, second_moment.data<float>() + offset);
    for (ValueFollower* follower : following_) follower->follow(block);
  }
}

std::vector<ShardedTensor> AdamW::state() {
  std::vector<ShardedTensor> tensors;
  tensors.reserve(2 * slots_.size());
  const auto add = [&](const char* moment, const Slot& slot, TensorView values) {
    const OwnedParameter& owned = *slot.owned;
    const Parameter& parameter = *owned.parameter;
    const std::int64_t units = parameter.sharding() == Sharding::kExpert ? parameter.global_shape()[0] : 1;
    const std::int64_t offset = owned.first_global_row();
    tensors.push_back({.name = moment + parameter.name(),
                       .global_shape = {units * owned.unit_rows, owned.columns},
                       .sharding = parameter.sharding(),
                       .local_rows = {offset + owned.mine.begin, offset + owned.mine.end},
                       .local = values,
                       .rows_per_expert = parameter.sharding() == Sharding::kExpert ? owned.unit_rows : 1,
                       .sole_owner = sharded_});
  };
  for (const Slot& slot : slots_) {
    add("adamw.m/", slot, slot.first_moment.view());
    add("adamw.v/", slot, slot.second_moment.view());
  }
  return tensors;
}

}  // namespace conclave
