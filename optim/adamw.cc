#include "optim/adamw.h"

#include <cmath>

#include "configs/resolve.h"

namespace conclave {
namespace {

// Below this, waking threads costs more than the update.
constexpr std::int64_t kParallelElements = 32 * 1024;

// What the update of every element of a tensor has in common.
struct Coefficients {
  float gradient_scale;
  float beta1;
  float one_minus_beta1;
  float beta2;
  float one_minus_beta2;
  float step_size;                 // learning rate / (1 - beta1^t)
  float second_moment_root_scale;  // 1 / sqrt(1 - beta2^t)
  float eps;
  float kept;  // 1 - learning rate * weight decay
};

// One pass over memory: reads four streams, writes three.
void update_elements(std::int64_t count, const Coefficients& c, const float* gradient, float* value, float* m,
                     float* v) {
#pragma omp parallel for simd schedule(static) if (parallel : count >= kParallelElements)
  for (std::int64_t i = 0; i < count; ++i) {
    const float g = gradient[i] * c.gradient_scale;
    m[i] = c.beta1 * m[i] + c.one_minus_beta1 * g;
    v[i] = c.beta2 * v[i] + c.one_minus_beta2 * (g * g);
    const float denominator = std::sqrt(v[i]) * c.second_moment_root_scale + c.eps;
    value[i] = c.kept * value[i] - c.step_size * m[i] / denominator;
  }
}

}  // namespace

AdamW::AdamW(const config::Optim& options, const Ownership& ownership)
    : sharded_(ownership.sharded()),
      beta1_(config::betas(options).first),
      beta2_(config::betas(options).second),
      eps_(options.eps()),
      dense_{.lr_multiplier = 1, .weight_decay = options.weight_decay()},
      experts_{.lr_multiplier = options.expert_lr_multiplier(),
               .weight_decay = config::expert_weight_decay(options)} {
  slots_.reserve(ownership.parameters().size());
  for (const OwnedParameter& owned : ownership.parameters()) {
    const Shape shape{owned.mine.size(), owned.columns};
    slots_.push_back({&owned, Buffer(shape, DType::kFloat32), Buffer(shape, DType::kFloat32)});
  }
}

void AdamW::update(double learning_rate, double gradient_scale) {
  ++updates_;
  const auto t = static_cast<double>(updates_);
  Coefficients coefficients{
      .gradient_scale = static_cast<float>(gradient_scale),
      .beta1 = static_cast<float>(beta1_),
      .one_minus_beta1 = static_cast<float>(1.0 - beta1_),
      .beta2 = static_cast<float>(beta2_),
      .one_minus_beta2 = static_cast<float>(1.0 - beta2_),
      .step_size = 0.0F,
      .second_moment_root_scale = static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(beta2_, t))),
      .eps = static_cast<float>(eps_),
      .kept = 1.0F,
  };
  for (Slot& slot : slots_) {
    const OwnedParameter& owned = *slot.owned;
    Parameter& parameter = *owned.parameter;
    const Group& group = parameter.sharding() == Sharding::kExpert ? experts_ : dense_;
    const double rate = learning_rate * group.lr_multiplier;
    coefficients.step_size = static_cast<float>(rate / (1.0 - std::pow(beta1_, t)));
    coefficients.kept = parameter.decays ? static_cast<float>(1.0 - rate * group.weight_decay) : 1.0F;
    for (const Range& rows : owned.trained_rows()) {
      const std::span<float> values = owned.elements(parameter.mutable_value(), rows);
      const std::int64_t first_of_mine = (rows.begin - owned.mine.begin) * owned.columns;
      update_elements(static_cast<std::int64_t>(values.size()), coefficients,
                      owned.elements(parameter.gradient(), rows).data(), values.data(),
                      slot.first_moment.view().data<float>() + first_of_mine,
                      slot.second_moment.view().data<float>() + first_of_mine);
    }
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
