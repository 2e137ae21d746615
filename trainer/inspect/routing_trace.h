// What the routers of all MoE layers decided for the tokens of a text or of a training step.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "configs/run.pb.h"
#include "layers/model/model.h"

namespace conclave {

inline constexpr std::int32_t kNoToken = -1;

struct LayerRouting {
  std::int64_t block = 0;            // of the model, from 0
  std::int64_t experts = 0;          // E
  std::int64_t places = 0;           // K: the most experts of a token
  std::vector<std::int32_t> chosen;  // [T, K], before anything is dropped; kNoExpert where a place is empty
  std::vector<float> weights;        // [T, K]
  std::vector<float> entropy;        // [T], nats, of the router's distribution; empty if it has none
};

struct RoutingTrace {
  bool tokens_are_bytes = true;
  // Of tokens that are not bytes, where it is known: the tokenizer that made them, and the bytes that each id
  // among them stands for.
  std::string tokenizer_file;
  std::map<std::int32_t, std::string> bytes_of_id;
  std::vector<std::int32_t> tokens;           // [T]; kNoToken for padding, which has no expert
  std::vector<std::string> sources;           // names of the texts
  std::vector<std::int32_t> source_of_token;  // [T], index into `sources`
  std::vector<LayerRouting> layers;

  std::int64_t size() const { return static_cast<std::int64_t>(tokens.size()); }  // T
};

struct Choice {
  std::int32_t expert = 0;
  float weight = 0;
};

// The experts of token t, the largest weight first (ties keep the router's order), empty places left out.
std::vector<Choice> choices_of(const LayerRouting& layer, std::int64_t token);
// The expert with the largest weight of each token [T]; kNoExpert where it has none.
std::vector<std::int32_t> first_experts(const LayerRouting& layer);

// A trace without tokens of the MoE layers of `model`, which `experiment` describes.
RoutingTrace empty_trace(const Model& model, const config::Experiment& experiment);
// Appends `tokens` of the source with this index and what the model's last forward, of just these tokens,
// decided for them; before its arena is reset.
void append_last_forward(const Model& model, std::span<const std::int32_t> tokens, std::int32_t source,
                         RoutingTrace& trace);

}  // namespace conclave
