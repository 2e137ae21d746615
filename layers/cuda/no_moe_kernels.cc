// The MoE layer's own kernels in a build without CUDA, where nothing gets here (layers/cuda/no_kernels.cc).
#include "comm/base/error.h"
#include "comm/cuda/runtime.h"
#include "layers/cuda/moe_kernels.h"

namespace conclave::cuda {
namespace {

[[noreturn]] void refuse() { throw Error(description()); }

using F = float;
using I = std::int64_t;
using I32 = std::int32_t;
using U8 = std::uint8_t;
using S = StreamHandle;

}  // namespace

I dispatch_plan_scratch(const DispatchPlanProblem&) { refuse(); }
void make_dispatch_plan(S, const DispatchPlanProblem&) { refuse(); }
void count_dispatched(S, const I32*, const I32*, I, I, const DispatchCounts&) { refuse(); }
void count_choices(S, const I32*, I, I, I, I*) { refuse(); }
void balance_gradient(S, const I*, double, double, I, I, double*, F*) { refuse(); }
void balance_terms(S, const F*, const double*, I, I, I, double*) { refuse(); }
void accumulate_counts(S, I*, I*, bool, I) { refuse(); }
void clear_padding(S, const U8*, F*, I, I) { refuse(); }
void without_padding(S, const U8*, const I32*, I32*, I, I) { refuse(); }
void input_jitter(S, RandomKey, I, F, const F*, F*, I, I) { refuse(); }
void deal_in_turn(S, const F*, I, bool, F, I32*, F*, I, I, I) { refuse(); }
void keep_second_choices(S, RandomKey, I, bool, F, const U8*, const I32*, const F*, I32*, F*, I) { refuse(); }
void look_up_experts(S, const I32*, const I32*, const U8*, F, I32*, F*, I, I) { refuse(); }
void noisy_logits(S, RandomKey, I, const NoisyLogits&, I) { refuse(); }
void noisy_logits_backward(S, const F*, const F*, const F*, F*, F*, I) { refuse(); }
void add_importance(S, const F*, const F*, const I32*, F*, I, I, I, I) { refuse(); }
void smooth_load(S, const SmoothLoadProblem&, F*) { refuse(); }
void smooth_load_backward(S, const SmoothLoadProblem&, const F*, I, F*, F*, F*) { refuse(); }
void variation_sums(S, const I32*, const F*, const F*, const double*, I, I, I, I, double*) { refuse(); }
void variation_gradient(S, const double*, I, const double*, double, double, I, I, double*, F*) { refuse(); }
void sigmoids(S, const F*, F*, I) { refuse(); }
void choose_tokens(S, const ExpertChoice&) { refuse(); }
void deal_within_groups(S, const HierarchicalGates&, I) { refuse(); }
void clear_unchosen_groups(S, const HierarchicalGates&) { refuse(); }
void multiply_weights(S, const HierarchicalGates&, F, I32*, I32*, F*) { refuse(); }
void multiply_weights_backward(S, const HierarchicalGates&, F, const I32*, const F*, F*, F*) { refuse(); }
void joint_entropy(S, const HierarchicalGates&, const F*, const F*, F*) { refuse(); }
void join_gates(S, const HierarchicalGates&, F*, F*) { refuse(); }
void join_gates_backward(S, const HierarchicalGates&, const F*, I, F*, F*) { refuse(); }
void survivor_weights(S, const F*, const I32*, F, F*, I, I) { refuse(); }
void survivor_weights_backward(S, const F*, const I32*, F, const F*, F*, I, I) { refuse(); }
void token_numbers(S, const I32*, I, I, I*, I) { refuse(); }
void first_dropout_blocks(S, const I*, const I*, I, I, I, I, I*, I) { refuse(); }
void move_rows(S, const void*, void*, const RowRun*, I, I, I) { refuse(); }

}  // namespace conclave::cuda
