// The distribution of the hierarchical router over all experts: P[t, e] = p(group of e) p(e within its
// group).
#pragma once

#include "layers/moe/router/hierarchical_gates.h"

namespace conclave {

// entropy [T] of P, from that of the gate over groups [T] and of the gates within [T * G].
void joint_entropy(Context& ctx, const HierarchicalGates& gates, ConstTensorView group_entropy,
                   ConstTensorView entropy_within, TensorView entropy);

// P into `joint` [T, E], and into log_sum_exp [T] the one number of a token that the z-loss takes: the root
// of the sum of the squares of its gates.
void join_gates(Context& ctx, const HierarchicalGates& gates, TensorView joint, TensorView log_sum_exp);

// djoint [A, E], each row for T / A tokens -> the gradient in the probabilities of both levels, in ctx.arena;
// empty where djoint is.
GateGradients join_gates_backward(Context& ctx, const HierarchicalGates& gates, ConstTensorView djoint);

}  // namespace conclave
