// The models of Hugging Face transformers that Conclave's can be: Mixtral (Jiang et al. 2024), OLMoE
// (Muennighoff et al. 2024) and Qwen3-MoE (Yang et al. 2025). All three are pre-norm decoders with
// rotate-half rotary positions, grouped-query attention, SwiGLU experts and a softmax router that drops
// nothing when it is used. They differ in:
//
//                 norm of queries and keys    weights of the chosen experts    dense blocks
//   mixtral       none                        normalised                       none
//   qwen3_moe     over each head              either                           all but every n-th, or none
//   olmoe         over the whole width        either                           none
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "configs/run.pb.h"

namespace conclave {

enum class Architecture : std::uint8_t { kMixtral, kQwen3Moe, kOlmoe };

// "mixtral": `model_type` of a config.json.
std::string_view model_type(Architecture architecture);
// "MixtralForCausalLM": its `architectures`.
std::string_view class_name(Architecture architecture);
// The architecture of a model_type; nothing for one that Conclave has no model for.
std::optional<Architecture> architecture_of(std::string_view model_type);
// "mixtral, qwen3_moe, olmoe": for messages.
std::string known_model_types();

struct ExportFit {
  std::optional<Architecture> architecture;
  std::string reason;  // without one: every key that stands in the way, its value, and what would do
};

// What the model of a resolved experiment exports as. What matters is what the trained model computes: what
// only training knows (capacity, losses, noise, dropout) doesn't count.
ExportFit export_fit(const config::Experiment& experiment);

// The experts that all MoE layers of a model that exports have: those of its first MoE layer.
config::Moe exported_moe(const config::Experiment& experiment);

// One line: "exports as qwen3_moe", or "doesn't export to Hugging Face: ...".
std::string describe(const ExportFit& fit);

}  // namespace conclave
