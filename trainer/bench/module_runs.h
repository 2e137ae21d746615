// Modules of a layer, set up to be measured alone.
#pragma once

#include <cstdint>

#include "comm/process_grid.h"
#include "layers/module.h"
#include "layers/moe/experts.h"
#include "trainer/bench/bench.h"

namespace conclave::bench {

// T of a full micro-batch.
std::int64_t tokens_of_rank(const Job& job);
// A full micro-batch of step 0.
BatchPosition full_micro_batch(const Job& job);

// Parameters are made on the host.
void move_to_memory(const Job& job, Parameter& parameter);
void move_to_memory(const Job& job, Module& module);

// Of experts with as many rows each: int64 [experts + 1], where a dispatch plan has them.
Buffer even_offsets(const Job& job, std::int64_t experts, std::int64_t rows_per_expert);

struct PassSeconds {
  double forward = 0;
  double backward = 0;
};

// The experts that a rank holds, without router and exchange.
class ExpertsRun {
 public:
  // Collective. Throws ConfigError for a dense model.
  explicit ExpertsRun(const Job& job);

  std::int64_t local_experts() const { return local_.size(); }
  // Of this rank: 2 (P + 1) D F a row, P = 2 input projections with swiglu, else 1.
  double forward_flops(std::int64_t rows_per_expert) const;
  // Collective: medians with as many rows for every expert.
  PassSeconds measure(std::int64_t rows_per_expert) const;

 private:
  const Job* job_;
  ProcessGrid grid_;
  Range local_;
  mutable Experts experts_;
  std::vector<Parameter*> parameters_;  // of the experts
};

}  // namespace conclave::bench
