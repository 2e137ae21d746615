#include "configs/moe_layers.h"

#include <algorithm>

#include "configs/keys.h"
#include "configs/resolve.h"

namespace conclave::config {
namespace {

// Both fields are of one type: MoeLayers repeats keys of Moe.
void copy_value(const Message& from, const Field& source, Message& to, const Field& target) {
  const auto& read = *from.GetReflection();
  const auto& write = *to.GetReflection();
  switch (source.cpp_type()) {
    case Field::CPPTYPE_ENUM:
      return write.SetEnum(&to, &target, read.GetEnum(from, &source));
    case Field::CPPTYPE_INT64:
      return write.SetInt64(&to, &target, read.GetInt64(from, &source));
    default:
      return write.SetDouble(&to, &target, read.GetDouble(from, &source));
  }
}

}  // namespace

Moe overridden(const Moe& moe, const MoeLayers& changes) {
  Moe result = moe;
  if (changes.has_router() && changes.router() != moe.router()) {
    clear_what_follows(moe.router(), result);
    clear_what_follows(changes.router(), result);
  }
  for (int i = 0; i < MoeLayers::descriptor()->field_count(); ++i) {
    const Field& given = *MoeLayers::descriptor()->field(i);
    if (given.is_repeated() || !changes.GetReflection()->HasField(changes, &given)) continue;
    copy_value(changes, given, result, *Moe::descriptor()->FindFieldByName(given.name()));
  }
  return result;
}

Moe merged(const Moe& moe, const MoeLayers& changes) {
  Moe result = overridden(moe, changes);
  resolve_router(result);
  return result;
}

Moe moe_of_layer(const Experiment& experiment, std::int64_t block) {
  for (const MoeLayers& changes : experiment.moe().layers()) {
    if (std::ranges::find(changes.blocks(), block) != changes.blocks().end()) {
      return merged(experiment.moe(), changes);
    }
  }
  return experiment.moe();
}

Experiment experiment_of_layer(const Experiment& experiment, std::int64_t block) {
  Experiment result = experiment;
  *result.mutable_moe() = moe_of_layer(experiment, block);
  return result;
}

std::int64_t most_experts(const Experiment& experiment) {
  std::int64_t most = 0;
  for (std::int64_t block = 0; block < experiment.model().layers(); ++block) {
    if (is_moe_layer(experiment, block)) most = std::max(most, moe_of_layer(experiment, block).experts());
  }
  return most;
}

}  // namespace conclave::config
