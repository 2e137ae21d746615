// Clipping by the global norm (Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent
// neural networks", 2013).
#pragma once

#include "optim/ownership.h"

namespace conclave {

// sqrt(sum over all elements of all parameters of gradient^2), of reduced gradients: each replicated
// parameter and each expert counted once, frozen ones not at all. Collective over the world. Accumulated in
// double in an order that depends on neither threads nor layout, so that equal gradients give the same bits
// on every rank, for every expert_parallel_size, and with state sharded or not. NaN or infinity in any
// gradient makes the norm NaN or infinite.
double global_gradient_norm(const Ownership& ownership);

// The factor for all gradients that limits their norm to max_norm: min(1, max_norm / norm). max_norm == 0
// switches clipping off. NaN if the norm is not finite: such a step must be skipped, and nobody can take it
// for a clipped one.
double clip_scale(double norm, double max_norm);

}  // namespace conclave
