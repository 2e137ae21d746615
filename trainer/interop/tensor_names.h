// Which Hugging Face tensors a Conclave tensor is made of.
//
// Shapes are [out, in] on both sides, rotary positions rotate halves on both sides: nothing is transposed or
// permuted. Conclave keeps query, key and value rows in one matrix, and gate and up rows of all experts in
// one; each Hugging Face tensor is a contiguous piece of one of Conclave's.
#pragma once

#include <string>
#include <vector>

#include "configs/run.pb.h"
#include "layers/tensor/sharded_tensor.h"
#include "trainer/interop/architecture.h"

namespace conclave {

// A Hugging Face tensor and where its elements lie in the Conclave tensor.
struct TensorPiece {
  std::string name;  // "model.layers.0.self_attn.k_proj.weight"
  Shape shape;
  std::int64_t first_element = 0;  // of the global Conclave tensor, experts included

  Range elements() const { return {first_element, first_element + shape.elements()}; }
};

struct TensorNames {
  std::string name;  // Conclave's: "layers.0.attention.qkv"
  Shape shape;       // of all experts
  Sharding sharding = Sharding::kReplicated;
  // Ways in which files hold it, each of pieces that cover it in order. The first is what an export writes;
  // the others are found in files that fuse experts or name them otherwise.
  std::vector<std::vector<TensorPiece>> ways;

  const std::vector<TensorPiece>& written() const { return ways.front(); }
};

// Every parameter of a model of `architecture`, in the order of the model. `experiment` is resolved.
std::vector<TensorNames> tensor_names(const config::Experiment& experiment, Architecture architecture);

}  // namespace conclave
