// The operators that a training step is made of, each at T tokens of a small model: D 256, F 512, 4 heads, 8
// experts, top-2. GFLOP/s and GB/s (bytes read and written once) are counters of each benchmark.
//   build/tests/bench/operators_bench --benchmark_filter=rms_norm
#include <benchmark/benchmark.h>

#include <algorithm>
#include <vector>

#include "layers/ops/add/add.h"
#include "layers/ops/attention/attention.h"
#include "layers/ops/embedding/embedding.h"
#include "layers/ops/gemm/gemm.h"
#include "layers/ops/grouped_gemm/grouped_gemm.h"
#include "layers/ops/linear_cross_entropy/linear_cross_entropy.h"
#include "layers/ops/permute/permute.h"
#include "layers/ops/rms_norm/rms_norm.h"
#include "layers/ops/rotary/rotary.h"
#include "layers/ops/softmax_top_k/softmax_top_k.h"
#include "layers/ops/swiglu/swiglu.h"
#include "trainer/bench/random_tensor.h"

namespace conclave {
namespace {

using bench::random_tensor;
using benchmark::Counter;
using benchmark::State;

constexpr std::int64_t kD = 256;
constexpr std::int64_t kF = 512;
constexpr std::int64_t kE = 8;
constexpr std::int64_t kK = 2;
constexpr std::int64_t kHeads = 4;
constexpr std::int64_t kS = 256;

Buffer values(Shape shape) { return random_tensor(shape, DType::kFloat32, "values"); }
Buffer zeros(Shape shape, DType dtype = DType::kFloat32) { return {shape, dtype}; }

void count_flops(State& state, double flops) {
  state.counters["GFLOP/s"] =
      Counter(flops / 1e9 * static_cast<double>(state.iterations()), Counter::kIsRate);
}
void count_bytes(State& state, std::int64_t elements) {
  state.counters["GB/s"] =
      Counter(static_cast<double>(elements) * sizeof(float) / 1e9 * static_cast<double>(state.iterations()),
              Counter::kIsRate);
}

// What a step pays for each of its spans, of which it has a few hundred.
void span_of_a_clock(State& state) {
  StepClock clock;
  for (auto _ : state) {
    const Span outer(&clock, "outer", TimePart::kOther);
    benchmark::DoNotOptimize(clock);
  }
}
BENCHMARK(span_of_a_clock);

void gemm_forward(State& state) {
  const std::int64_t T = state.range(0);
  const Buffer x = values({T, kD});
  const Buffer w = values({kF, kD});
  const Buffer y = zeros({T, kF});
  Context ctx;
  for (auto _ : state) gemm(ctx, {.a = x.view(), .b = w.view(), .c = y.view(), .transpose_b = true});
  count_flops(state, 2.0 * static_cast<double>(T * kF * kD));
}
BENCHMARK(gemm_forward)->Arg(256)->Arg(2048)->UseRealTime();

void gemm_weight_gradient(State& state) {
  const std::int64_t T = state.range(0);
  const Buffer x = values({T, kD});
  const Buffer dy = values({T, kF});
  const Buffer dw = zeros({kF, kD});
  Context ctx;
  for (auto _ : state)
    gemm(ctx, {.a = dy.view(), .b = x.view(), .c = dw.view(), .transpose_a = true, .accumulate = true});
  count_flops(state, 2.0 * static_cast<double>(T * kF * kD));
}
BENCHMARK(gemm_weight_gradient)->Arg(256)->Arg(2048)->UseRealTime();

void grouped_gemm_forward(State& state) {
  const std::int64_t R = state.range(0);
  const Buffer x = values({R, kD});
  const Buffer w = values({kE, 2 * kF, kD});
  const Buffer y = zeros({R, 2 * kF});
  std::vector<std::int64_t> offsets;
  for (std::int64_t e = 0; e <= kE; ++e) offsets.push_back(e * R / kE);
  Context ctx;
  for (auto _ : state)
    grouped_gemm(ctx, {.x = x.view(), .weights = w.view(), .offsets = offsets, .y = y.view()});
  count_flops(state, 2.0 * static_cast<double>(R * 2 * kF * kD));
}
BENCHMARK(grouped_gemm_forward)->Arg(128)->Arg(4096)->UseRealTime();

void attention_both_ways(State& state) {
  const std::int64_t T = state.range(0);
  const AttentionShape shape{kHeads, kHeads, kD / kHeads};
  const Buffer q = values({T, kD});
  const Buffer y = zeros({T, kD});
  const Buffer log_sum_exp = zeros({T, kHeads});
  const Buffer dq = zeros({T, kD});
  const Buffer dk = zeros({T, kD});
  const Buffer dv = zeros({T, kD});
  Arena arena;
  for (auto _ : state) {
    arena.reset();
    Context ctx{.arena = &arena};
    attention_forward(ctx, {.shape = shape,
                            .sequence_length = kS,
                            .causal = true,
                            .padding = {},
                            .q = q.view(),
                            .k = q.view(),
                            .v = q.view(),
                            .y = y.view(),
                            .log_sum_exp = log_sum_exp.view()});
    attention_backward(ctx, {.shape = shape,
                             .sequence_length = kS,
                             .causal = true,
                             .padding = {},
                             .q = q.view(),
                             .k = q.view(),
                             .v = q.view(),
                             .y = y.view(),
                             .log_sum_exp = log_sum_exp.view(),
                             .dy = q.view(),
                             .dq = dq.view(),
                             .dk = dk.view(),
                             .dv = dv.view()});
  }
  count_flops(state, 6.0 * static_cast<double>(T * kS * kD));
}
BENCHMARK(attention_both_ways)->Arg(256)->Arg(2048)->UseRealTime();

void add_rms_norm_forward(State& state) {
  const std::int64_t T = state.range(0);
  const Buffer x = values({T, kD});
  const Buffer weight = values({kD});
  const Buffer sum = zeros({T, kD});
  const Buffer y = zeros({T, kD});
  const Buffer rstd = zeros({T});
  Context ctx;
  for (auto _ : state)
    add_rms_norm(ctx, {x.view(), x.view(), weight.view(), sum.view(), y.view(), rstd.view(), 1e-6F});
  count_bytes(state, 4 * T * kD);
}
BENCHMARK(add_rms_norm_forward)->Arg(2048)->UseRealTime();

void swiglu_forward(State& state) {
  const std::int64_t R = state.range(0);
  const Buffer gate_up = values({R, 2 * kF});
  const Buffer h = zeros({R, kF});
  Context ctx;
  for (auto _ : state) swiglu(ctx, {.gate_up = gate_up.view(), .h = h.view()});
  count_bytes(state, 3 * R * kF);
}
BENCHMARK(swiglu_forward)->Arg(4096)->UseRealTime();

void swiglu_backward_in_place(State& state) {
  const std::int64_t R = state.range(0);
  const Buffer gate_up = values({R, 2 * kF});
  const Buffer dgate_up = zeros({R, 2 * kF});
  const Buffer dh = values({R, kF});
  Context ctx;
  for (auto _ : state)
    swiglu_backward(ctx, {.gate_up = gate_up.view(), .dh = dh.view(), .dgate_up = dgate_up.view()});
  count_bytes(state, 5 * R * kF);
}
BENCHMARK(swiglu_backward_in_place)->Arg(4096)->UseRealTime();

void softmax_top_2(State& state) {
  const std::int64_t T = state.range(0);
  const Buffer logits = values({T, kE});
  const Buffer probabilities = zeros({T, kE});
  const Buffer experts = zeros({T, kK}, DType::kInt32);
  const Buffer weights = zeros({T, kK});
  const Buffer log_sum_exp = zeros({T});
  const Buffer entropy = zeros({T});
  Arena arena;
  for (auto _ : state) {
    arena.reset();
    Context ctx{.arena = &arena};
    softmax_top_k(ctx, {.logits = logits.view(),
                        .normalize = true,
                        .scale = 1,
                        .groups = {1, 1},
                        .probabilities = probabilities.view(),
                        .experts = experts.view(),
                        .weights = weights.view(),
                        .log_sum_exp = log_sum_exp.view(),
                        .entropy = entropy.view()});
  }
  count_bytes(state, T * (2 * kE + 2 * kK + 2));
}
BENCHMARK(softmax_top_2)->Arg(2048)->UseRealTime();

// Token t's choices go to rows 2 t and 2 t + 1: neighbours, as far as memory is concerned the best case.
void gather_and_combine(State& state) {
  const std::int64_t T = state.range(0);
  const Buffer x = values({T, kD});
  const Buffer rows = zeros({T * kK, kD});
  const Buffer weights = values({T, kK});
  const Buffer y = zeros({T, kD});
  std::vector<std::int32_t> choices(static_cast<std::size_t>(T * kK));
  for (std::size_t i = 0; i < choices.size(); ++i) choices[i] = static_cast<std::int32_t>(i);
  Context ctx;
  for (auto _ : state) {
    gather_rows(ctx, {.x = x.view(), .choice_of_row = choices, .top_k = kK, .rows = rows.view()});
    combine_rows(ctx, {.rows = rows.view(),
                       .weights = weights.view(),
                       .row_of_choice = choices,
                       .y = y.view(),
                       .accumulate = false});
  }
  count_bytes(state, T * kD * (2 + 2 * kK));
}
BENCHMARK(gather_and_combine)->Arg(2048)->UseRealTime();

void head_and_loss(State& state) {
  const std::int64_t T = state.range(0);
  const std::int64_t V = state.range(1);
  const Buffer h = values({T, kD});
  const Buffer weight = values({V, kD});
  const Buffer targets = zeros({T}, DType::kInt32);
  const Buffer dh = zeros({T, kD});
  const Buffer dweight = zeros({V, kD});
  Arena arena;
  for (auto _ : state) {
    arena.reset();
    Context ctx{.arena = &arena};
    LinearCrossEntropyArgs args;
    args.h = h.view();
    args.weight = weight.view();
    args.targets = targets.view();
    args.dh = dh.view();
    args.dweight = dweight.view();
    args.scale = 1e-3F;
    benchmark::DoNotOptimize(linear_cross_entropy(ctx, args).loss_sum);
  }
  count_flops(state, 6.0 * static_cast<double>(T * V * kD));
}
BENCHMARK(head_and_loss)->Args({2048, 256})->Args({512, 32000})->UseRealTime();

}  // namespace
}  // namespace conclave
