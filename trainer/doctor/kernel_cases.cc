#include "trainer/doctor/kernel_cases.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "comm/cuda/memory.h"
#include "comm/gpu/gpu_communicator.h"
#include "comm/self/self_communicator.h"
#include "configs/load.h"
#include "layers/cuda/factor.h"
#include "layers/model/transformer_block.h"
#include "layers/ops/attention/attention.h"
#include "layers/ops/gemm/gemm.h"
#include "layers/ops/grouped_gemm/grouped_gemm.h"
#include "layers/ops/linear_cross_entropy/linear_cross_entropy.h"
#include "layers/ops/rms_norm/rms_norm.h"
#include "layers/ops/softmax_top_k/softmax_top_k.h"
#include "layers/ops/swiglu/swiglu.h"
#include "optim/adamw.h"

namespace conclave {
namespace {

using Operands = std::span<const TensorView>;
using Results = std::vector<KernelCase::Result>;

std::string named(const std::string& name, DType dtype) {
  return fmt::format("{}, {}", name, dtype == DType::kBFloat16 ? "bf16" : "fp32");
}

// For results that are added to.
TensorView zeros(Context& ctx, Shape shape) {
  const TensorView tensor = ctx.arena->allocate(shape);
  if (ctx.on_gpu()) {
    cuda::fill_with_zeros(ctx.gpu->stream(), tensor.raw(), tensor.values<float>().size_bytes());
  } else {
    std::ranges::fill(tensor.values<float>(), 0.0F);
  }
  return tensor;
}

// c [M, N] = a [M, K] b [N, K]^T, as linear layers have it.
KernelCase gemm_case(std::int64_t M, std::int64_t N, std::int64_t K, DType factors) {
  return {.name = named(fmt::format("gemm {} x {} x {}", M, N, K), factors),
          .operands = {{M, K}, {N, K}},
          .compute = factors,
          .operand = factors,
          .run = [=](Context& ctx, Operands in) -> Results {
            const TensorView c = ctx.arena->allocate({M, N});
            gemm(ctx, {.a = in[0], .b = in[1], .c = c, .transpose_b = true});
            return {{"c", c}};
          }};
}

// The three products of stacked experts: x [R, K], dy [R, N], W [n, N, K].
KernelCase grouped_case(std::vector<std::int64_t> offsets, std::int64_t N, std::int64_t K, DType factors) {
  const std::int64_t R = offsets.back();
  const auto n = static_cast<std::int64_t>(offsets.size()) - 1;
  return {.name = named(fmt::format("{} experts' products, {} rows, {} x {}", n, R, N, K), factors),
          .operands = {{R, K}, {R, N}, {n, N, K}},
          .compute = factors,
          .operand = factors,
          .run = [=](Context& ctx, Operands in) -> Results {
            const TensorView y = ctx.arena->allocate({R, N});
            const TensorView dx = ctx.arena->allocate({R, K});
            const TensorView dweights = zeros(ctx, {n, N, K});
            grouped_gemm(ctx, {.x = in[0], .weights = in[2], .offsets = offsets, .y = y});
            grouped_gemm_input_gradient(ctx, {.dy = in[1], .weights = in[2], .offsets = offsets, .dx = dx});
            grouped_gemm_weight_gradient(ctx,
                                         {.dy = in[1], .x = in[0], .offsets = offsets, .dweights = dweights});
            return {{"y", y}, {"dx", dx}, {"dW", dweights}};
          }};
}

// B sequences of S tokens.
KernelCase attention_case(std::int64_t B, std::int64_t S, AttentionShape shape, DType compute) {
  const Shape queries{B * S, shape.query_width()};
  const Shape keys{B * S, shape.kv_width()};
  return {.name = named(fmt::format("attention of {} tokens, heads of {}", S, shape.head_dim), compute),
          .operands = {queries, keys, keys, queries},
          .compute = compute,
          .rounding = compute,
          .run = [=](Context& ctx, Operands in) -> Results {
            const TensorView y = ctx.arena->allocate(queries);
            const TensorView log_sum_exp = ctx.arena->allocate({B * S, shape.heads});
            const TensorView dq = ctx.arena->allocate(queries);
            const TensorView dk = ctx.arena->allocate(keys);
            const TensorView dv = ctx.arena->allocate(keys);
            attention_forward(ctx, {.shape = shape,
                                    .sequence_length = S,
                                    .padding = {},
                                    .q = in[0],
                                    .k = in[1],
                                    .v = in[2],
                                    .y = y,
                                    .log_sum_exp = log_sum_exp});
            attention_backward(ctx, {.shape = shape,
                                     .sequence_length = S,
                                     .padding = {},
                                     .q = in[0],
                                     .k = in[1],
                                     .v = in[2],
                                     .y = y,
                                     .log_sum_exp = log_sum_exp,
                                     .dy = in[3],
                                     .dq = dq,
                                     .dk = dk,
                                     .dv = dv});
            return {{"y", y}, {"log_sum_exp", log_sum_exp}, {"dq", dq}, {"dk", dk}, {"dv", dv}};
          }};
}

// y is in the format of products, which read it.
KernelCase norm_case(std::int64_t T, std::int64_t D, DType result) {
  return {.name = named(fmt::format("norm {} x {}", T, D), result),
          .operands = {{T, D}, {D}, {T, D}},
          .compute = result,
          .rounding = result,
          .run = [=](Context& ctx, Operands in) -> Results {
            const TensorView y = ctx.arena->allocate({T, D}, ctx.compute);
            const TensorView rstd = ctx.arena->allocate({T});
            const TensorView dx = ctx.arena->allocate({T, D});
            const TensorView dweight = zeros(ctx, {D});
            rms_norm(ctx, {.x = in[0], .weight = in[1], .y = y, .rstd = rstd, .eps = 1e-5F});
            rms_norm_backward(
                ctx, {.dy = in[2], .x = in[0], .weight = in[1], .rstd = rstd, .dx = dx, .dweight = dweight});
            return {{"y", y}, {"rstd", rstd}, {"dx", dx}, {"dweight", dweight}};
          }};
}

KernelCase swiglu_case(std::int64_t T, std::int64_t F, DType elements) {
  return {.name = named(fmt::format("swiglu {} x {}", T, F), elements),
          .operands = {{T, 2 * F}, {T, F}},
          .compute = elements,
          .operand = elements,
          .rounding = elements,
          .run = [=](Context& ctx, Operands in) -> Results {
            const TensorView h = ctx.arena->allocate({T, F}, in[0].dtype());
            const TensorView dgate_up = ctx.arena->allocate({T, 2 * F}, in[0].dtype());
            swiglu(ctx, {.gate_up = in[0], .h = h});
            swiglu_backward(ctx, {.gate_up = in[0], .dh = in[1], .dgate_up = dgate_up});
            return {{"h", h}, {"dgate_up", dgate_up}};
          }};
}

// Experts are compared by the weights that stand at their places, which differ where they do.
KernelCase top_k_case(std::int64_t T, std::int64_t E, std::int64_t K) {
  return {.name = fmt::format("softmax and top-{} of {}", K, E),
          .operands = {{T, E}, {T, K}},
          .run = [=](Context& ctx, Operands in) -> Results {
            const TensorView p = ctx.arena->allocate({T, E});
            const TensorView experts = ctx.arena->allocate({T, K}, DType::kInt32);
            const TensorView weights = ctx.arena->allocate({T, K});
            const TensorView log_sum_exp = ctx.arena->allocate({T});
            const TensorView entropy = ctx.arena->allocate({T});
            const TensorView dlogits = ctx.arena->allocate({T, E});
            softmax_top_k(ctx, {.logits = in[0],
                                .probabilities = p,
                                .experts = experts,
                                .weights = weights,
                                .log_sum_exp = log_sum_exp,
                                .entropy = entropy});
            softmax_top_k_backward(ctx, {.probabilities = p,
                                         .experts = experts,
                                         .weights = weights,
                                         .log_sum_exp = log_sum_exp,
                                         .dweights = in[1],
                                         .dprobabilities = {},
                                         .z_coefficient = 0.1F,
                                         .dlogits = dlogits});
            return {{"p", p},
                    {"weights", weights},
                    {"log_sum_exp", log_sum_exp},
                    {"entropy", entropy},
                    {"dlogits", dlogits}};
          }};
}

KernelCase cross_entropy_case(std::int64_t T, std::int64_t V, std::int64_t D, DType factors) {
  std::vector<std::int32_t> targets;
  for (std::int64_t t = 0; t < T; ++t) targets.push_back(static_cast<std::int32_t>(t * 37 % V));
  targets.back() = LinearCrossEntropyArgs::kIgnore;
  return {.name = named(fmt::format("head and cross-entropy, {} tokens of {}", T, V), factors),
          .operands = {{T, D}, {V, D}},
          .compute = factors,
          .rounding = factors,
          .run = [=](Context& ctx, Operands in) -> Results {
            const TensorView losses = ctx.arena->allocate({T});
            const TensorView dh = ctx.arena->allocate({T, D});
            const TensorView dweight = zeros(ctx, {V, D});
            linear_cross_entropy(ctx, {.h = in[0],
                                       .weight = cuda::as_factor(ctx, in[1], ctx.compute),
                                       .targets = tensor_view(std::span(targets), {T}),
                                       .losses = losses,
                                       .dh = dh,
                                       .dweight = dweight,
                                       .scale = 1.0F / static_cast<float>(T)});
            return {{"losses", losses}, {"dh", dh}, {"dweight", dweight}};
          }};
}

TensorView copied(Context& ctx, ConstTensorView values) {
  const TensorView copy = ctx.arena->allocate(values.shape());
  ctx.synchronize();
  std::ranges::copy(values.values<float>(), copy.data<float>());
  return copy;
}

// Two updates by the same gradient, so that moments count.
KernelCase adamw_case(std::int64_t M, std::int64_t N) {
  return {.name = fmt::format("AdamW {} x {}", M, N),
          .operands = {{M, N}, {M, N}},
          .run = [=](Context& ctx, Operands in) -> Results {
            Parameter parameter("parameter", {M, N});
            std::ranges::copy(in[0].values<float>(), parameter.mutable_value().data<float>());
            std::ranges::copy(in[1].values<float>(), parameter.gradient().data<float>());
            if (ctx.on_gpu()) parameter.move_to(ctx.gpu->stream());
            const std::unique_ptr<Communicator> alone = make_self_communicator();
            const ProcessGrid grid(*alone, 1);
            const Ownership ownership({&parameter}, grid, /*sharded=*/false, ctx.gpu);
            config::Optim options;
            for (const double beta : {0.9, 0.95}) options.add_betas(beta);
            AdamW optimizer(options, ownership);
            for (int update = 0; update < 2; ++update)
              optimizer.update(/*learning_rate=*/0.1, /*gradient_scale=*/0.5);
            return {{"value", copied(ctx, parameter.value())}};
          }};
}

constexpr const char* kBlock =
    "run: {name: doctor}\n"
    "model: {layers: 1, d_model: 48, heads: 4, kv_heads: 2, max_seq: 40, qk_norm: true, init_std: 0.2}\n"
    "moe: {experts: 6, top_k: 2, d_ff: 40, shared_experts: 1}\n"
    "data: {train: [{name: random, path: none}]}\n";

// A block with an MoE layer: the operators above in one another's company, the dispatch plan and the router.
// In fp32 alone: roundings to bf16 would decide near ties between experts.
KernelCase block_case() {
  const config::Experiment experiment = config::parse_experiment(kBlock, "the block of conclave doctor", {});
  constexpr std::int64_t kSequences = 3;
  const std::int64_t S = experiment.model().max_seq();
  const Shape tokens{kSequences * S, experiment.model().d_model()};
  return {.name = fmt::format("a block with an MoE layer, {} tokens", tokens[0]),
          .operands = {tokens, tokens},
          .run = [=](Context& ctx, Operands in) -> Results {
            std::unique_ptr<Communicator> alone = make_self_communicator();
            if (ctx.on_gpu()) alone = make_gpu_communicator(std::move(alone), ctx.gpu->stream());
            const ProcessGrid grid(*alone, 1);
            TransformerBlock block(experiment, 0, grid);
            std::vector<Parameter*> parameters;
            block.collect_parameters(parameters);
            if (ctx.on_gpu()) {
              for (Parameter* parameter : parameters) parameter->move_to(ctx.gpu->stream());
            }
            Context in_step = ctx;
            in_step.grid = &grid;
            in_step.batch = {.sequences = kSequences,
                             .sequence_length = S,
                             .most_sequences = kSequences,
                             .global_sequences = kSequences};
            Results results{{"y", copied(ctx, block.forward(in_step, in[0]))},
                            {"dx", copied(ctx, block.backward(in_step, in[1]))}};
            for (const Parameter* parameter : parameters)
              results.push_back({"the gradient of " + parameter->name(), copied(ctx, parameter->gradient())});
            return results;
          }};
}

}  // namespace

std::vector<KernelCase> kernel_cases() {
  std::vector<KernelCase> cases;
  for (const DType format : {DType::kFloat32, DType::kBFloat16}) {
    cases.push_back(gemm_case(128, 96, 64, format));
    cases.push_back(gemm_case(70, 33, 29, format));
    cases.push_back(grouped_case({0, 40, 40, 136, 192}, 96, 64, format));
    cases.push_back(grouped_case({0, 3, 3, 50, 71}, 33, 29, format));
    cases.push_back(attention_case(2, 70, {.heads = 4, .kv_heads = 2, .head_dim = 32}, format));
    cases.push_back(attention_case(1, 128, {.heads = 2, .kv_heads = 2, .head_dim = 64}, format));
    cases.push_back(norm_case(67, 130, format));
    cases.push_back(swiglu_case(33, 50, format));
    cases.push_back(cross_entropy_case(37, 131, 48, format));
  }
  cases.push_back(top_k_case(65, 16, 4));
  cases.push_back(adamw_case(33, 65));
  cases.push_back(block_case());
  return cases;
}

}  // namespace conclave
