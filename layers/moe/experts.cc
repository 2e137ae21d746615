#include "layers/moe/experts.h"

#include <algorithm>
#include <optional>

#include "layers/cuda/arguments.h"
#include "layers/cuda/moe_kernels.h"
#include "layers/ops/dropout/dropout.h"

namespace conclave {
Experts::Experts(const std::string& name, const ExpertsOptions& options)
    : d_ff_(options.d_ff),
      activation_(options.activation),
      dropout_(static_cast<float>(options.dropout)),
      recompute_(options.recompute),
      seed_(options.seed),
      name_(name),
      local_experts_(options.local_experts),
      input_(name + input_projection_name(options.activation),
             {options.experts, input_projections(options.activation) * options.d_ff, options.d_model},
             options.local_experts),
      down_(name + ".down",
            {options.experts, options.d_output > 0 ? options.d_output : options.d_model, options.d_ff},
            options.local_experts),
      input_weight_(input_),
      down_weight_(down_) {
  input_.initialise_normal(options.seed, options.init_std);
  down_.initialise_normal(options.seed, options.output_init_std);
}

TensorView Experts::forward(Context& ctx, ConstTensorView rows, ConstTensorView offsets,
                            ConstTensorView tokens, std::int64_t pass_index) {
  const Span span(ctx.clock, "experts", TimePart::kOther, ComparedCall::kExperts, -1, pass_index > 0);
  passes_.resize(std::max(passes_.size(), static_cast<std::size_t>(pass_index) + 1));
  Pass& pass = passes_[static_cast<std::size_t>(pass_index)];
  pass.rows = rows;
  cut(offsets, rows.extent(0), pass.parts);
  pass.tokens = tokens;
  const TensorView y =
      ctx.arena->allocate({rows.extent(0), down_weight_.outputs()}, ctx.compute);  // [R, D_out]
  std::optional<Arena::Mark> forgotten;
  if (recompute_ || !ctx.training) forgotten.emplace(*ctx.arena);
  compute_hidden(ctx, pass);
  for (const Part& part : pass.parts) {
    down_weight_.forward(ctx, part.of(pass.hidden), part.of(y), part.offsets());
    ctx.progress();
  }
  return y;
}

void Experts::compute_hidden(Context& ctx, Pass& pass) {
  const std::int64_t rows = pass.rows.extent(0);
  pass.preactivation = ctx.arena->allocate({rows, input_weight_.outputs()}, ctx.compute);
  pass.hidden = ctx.arena->allocate({rows, d_ff_}, ctx.compute);
  for (const Part& part : pass.parts) {
    input_weight_.forward(ctx, part.of(pass.rows), part.of(pass.preactivation), part.offsets());
    ctx.progress();
  }
  hidden_layer(ctx, activation_, pass.preactivation, pass.hidden);
  if (drops_out(ctx)) drop_out(ctx, pass);
}

TensorView Experts::backward(Context& ctx, ConstTensorView dy, std::int64_t pass_index) {
  const Span span(ctx.clock, "experts backward", TimePart::kOther, ComparedCall::kExperts, -1,
                  pass_index > 0);
  Pass& pass = passes_[static_cast<std::size_t>(pass_index)];
  const TensorView drows = ctx.arena->allocate(pass.rows.shape(), pass.rows.dtype());  // [R, D]
  const Arena::Mark scratch(*ctx.arena);
  if (recompute_) compute_hidden(ctx, pass);
  const TensorView dhidden = ctx.arena->allocate(pass.hidden.shape(), pass.hidden.dtype());  // [R, F]
  const TensorView dpreactivation = pass.preactivation;  // [R, P F]: the gradient in the place of the value

  for (const Part& part : pass.parts) {
    down_weight_.input_gradient(ctx, part.of(dy), part.of(dhidden), part.offsets());
    ctx.progress();
  }
  if (dropout_ > 0) dropout_backward(ctx, {.kept = pass.kept, .rate = dropout_, .dx = dhidden});
  hidden_layer_backward(ctx, activation_, pass.preactivation, dhidden, dpreactivation);
  for (const Part& part : pass.parts) {
    down_weight_.weight_gradient(ctx, part.of(dy), part.of(pass.hidden), part.offsets());
    ctx.progress();
    input_weight_.weight_gradient(ctx, part.of(dpreactivation), part.of(pass.rows), part.offsets());
    ctx.progress();
    input_weight_.input_gradient(ctx, part.of(dpreactivation), part.of(drows), part.offsets());
    if (&part == &pass.parts.back()) break;  // folded by who calls backward, with those of other layers
    down_.fold_gradient();
    input_.fold_gradient();
  }
  return drows;
}

void Experts::cut(ConstTensorView all_offsets, std::int64_t rows, std::vector<Part>& parts) const {
  const auto experts = static_cast<std::size_t>(local_experts_.size());
  if (all_offsets.device().kind == DeviceKind::kCuda) {
    CONCLAVE_CHECK_EQ(all_offsets.elements(), local_experts_.size() + 1, "offsets of the experts' rows");
    parts.resize(1);
    parts.front().rows = {0, rows};
    parts.front().offsets_on_gpu = all_offsets;
    return;
  }
  const auto offsets = all_offsets.values<std::int64_t>();
  parts.resize(experts == 0 ? 1 : (offsets.size() - 1) / experts);
  CONCLAVE_CHECK_EQ(offsets.size(), parts.size() * experts + 1, "offsets of the experts' rows");
  for (std::size_t p = 0; p < parts.size(); ++p) {
    const auto own = offsets.subspan(p * experts, experts + 1);
    parts[p].rows = {own.front(), own.back()};
    parts[p].offsets_on_gpu = {};
    parts[p].offsets_on_host.clear();
    for (const std::int64_t offset : own) parts[p].offsets_on_host.push_back(offset - own.front());
  }
}

void Experts::drop_out(Context& ctx, Pass& pass) {
  CONCLAVE_CHECK_EQ(pass.tokens.elements(), pass.hidden.extent(0), "token numbers of the experts' rows");
  pass.kept = ctx.arena->allocate(pass.hidden.shape(), DType::kUInt8);
  const Arena::Mark scratch(*ctx.arena);
  // Row of token t at expert e: blocks from (t E + e) * blocks a row.
  const TensorView first_block = ctx.arena->allocate({pass.hidden.extent(0)}, DType::kInt64);
  for (const Part& part : pass.parts) number_blocks(ctx, part, pass.tokens, first_block);
  dropout(ctx, {.random = RandomStream(seed_, name_ + "/dropout", static_cast<std::uint64_t>(ctx.batch.step)),
                .first_block = first_block,
                .rate = dropout_,
                .x = pass.hidden,
                .kept = pass.kept});
}

void Experts::number_blocks(Context& ctx, const Part& part, ConstTensorView tokens,
                            TensorView first_block) const {
  const std::int64_t all_experts = down_.global_shape()[0];
  const auto* token = tokens.data<std::int64_t>() + part.rows.begin;
  auto* block = first_block.data<std::int64_t>() + part.rows.begin;
  if (ctx.on_gpu()) {
    cuda::first_dropout_blocks(cuda::stream_of(ctx), token, cuda::on_gpu<std::int64_t>(ctx, part.offsets()),
                               local_experts_.size(), local_experts_.begin, all_experts,
                               dropout_blocks(d_ff_), block, part.rows.size());
    return;
  }
  for (std::int64_t expert = local_experts_.begin; expert < local_experts_.end; ++expert) {
    const auto local = static_cast<std::size_t>(expert - local_experts_.begin);
    for (std::int64_t row = part.offsets_on_host[local]; row < part.offsets_on_host[local + 1]; ++row)
      block[row] = (token[row] * all_experts + expert) * dropout_blocks(d_ff_);
  }
}

void Experts::renew_copies(Context& ctx) {
  input_weight_.renew_copies(ctx);
  down_weight_.renew_copies(ctx);
}

void Experts::collect_parameters(std::vector<Parameter*>& parameters) {
  parameters.push_back(&input_);
  parameters.push_back(&down_);
}

}  // namespace conclave
