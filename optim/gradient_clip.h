// Clipping by the global norm (Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent
// neural networks", 2013).
#pragma once

#include <span>
#include <vector>

#include "optim/ownership.h"

namespace conclave {

// sqrt(sum over all elements of all parameters of gradient^2), of reduced gradients: each replicated
// parameter and each expert counted once, frozen ones not at all. Accumulated in double in an order that
// depends on neither threads nor layout, so that equal gradients give the same bits on every rank, for every
// expert_parallel_size, and with state sharded or not. NaN or infinity in any gradient makes the norm NaN or
// infinite.
class GradientNorm {
 public:
  // `ownership` must outlive the object; what is frozen must be so already.
  explicit GradientNorm(const Ownership& ownership);

  // Collective over the world.
  double compute();

 private:
  // Rows of a parameter that this rank sums up, and where their sum belongs.
  struct Block {
    const OwnedParameter* owned;
    Range rows;
    std::size_t place;
  };
  // The parameters of one sharding, their blocks in the order of parameters, global units (experts) and
  // blocks. A rank fills in the sums of the blocks that it owns; the others, and frozen ones, are 0.
  struct Part {
    Sharding sharding;
    std::vector<Block> blocks;
    std::vector<double> sums;
    // On a GPU: the same blocks as its kernel takes them, and their sums.
    Buffer blocks_on_gpu = {};
    Buffer sums_on_gpu = {};  // fp64 [blocks]
    Buffer sums_on_host =
        {};  // the same, pinned: pages that the host reads would leave the GPU in every step
  };
  Part part_of(Sharding sharding) const;
  void sum_blocks(Part& part) const;
  void start_sums_on_gpu(Part& part) const;
  void sum_blocks_on_gpu();  // of both parts, with one wait
  double sum_units(const Part& part) const;

  const Ownership* ownership_;
  Part replicated_;
  Part experts_;
};

// The factor for all gradients that limits their norm to max_norm: min(1, max_norm / norm). max_norm == 0
// switches clipping off. NaN if the norm is not finite: such a step must be skipped, and nobody can take it
// for a clipped one.
double clip_scale(double norm, double max_norm);

}  // namespace conclave
