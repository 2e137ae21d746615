// The hash router (Roller et al., "Hash layers for large sparse models", 2021): a token's experts follow from
// its id alone, by a table that nothing changes. Nothing is learned, so nothing needs balancing.
//
// The ids of the vocabulary are shuffled and dealt to the experts in turn. Id number p of the shuffled deck,
// in round q = p / E, has the experts (p + o[q, k]) mod E, k = 0 .. K - 1, where o[q, .] are K different
// random offsets of that round. So a token's K experts are different, each expert is the k-th choice of
// V / E ids within one, for every k, and ids that share their first expert part ways at the second. An
// independent hash of each id would leave some experts of a small vocabulary with twice the ids of others.
// Loads still are as uneven as the words of a language are frequent.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "layers/moe/router/router.h"

namespace conclave {

// The table: the K experts of id i are [i * K, i * K + K). A function of its arguments alone; K <= E.
std::vector<std::int32_t> hash_table(std::uint64_t seed, const std::string& name, std::int64_t vocab_size,
                                     std::int64_t experts, std::int64_t top_k);

class HashRouter : public Router {
 public:
  // No parameters. The table is drawn from (run.seed, name), and part of checkpoints: name + ".table".
  HashRouter(const config::Experiment& experiment, const std::string& name);

  // Every weight is routed_scale / K. x counts for its shape only. Throws Error without one token id in the
  // vocabulary for every row of x.
  Routing forward(Context& ctx, ConstTensorView x, MoeStatistics& statistics) override;
  // dx = 0.
  TensorView backward(Context& ctx, ConstTensorView dweights) override;
  bool has_kernels() const override { return true; }
  void renew_copies(Context& ctx) override;
  void collect_parameters(std::vector<Parameter*>&) override {}
  void collect_state(std::vector<ShardedTensor>& state) override;
  void end_step(Context&) override {}

 private:
  float weight() const { return routed_scale_ / static_cast<float>(top_k_); }
  // experts and weights [T, K] of ctx.token_ids, which were checked.
  void look_up(const Context& ctx, TensorView experts, TensorView weights) const;
  void look_up_on_gpu(Context& ctx, TensorView experts, TensorView weights) const;

  std::string name_;
  std::int64_t top_k_;
  std::int64_t vocab_size_;
  float routed_scale_;
  std::vector<std::int32_t> table_;  // [V, K]
  Buffer table_on_gpu_;
  bool table_on_gpu_is_current_ = false;
  Shape input_shape_;  // of the last forward: [T, D]
};

}  // namespace conclave
