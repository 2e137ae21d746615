#include "layers/moe/experts.h"

#include <optional>

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

TensorView Experts::forward(Context& ctx, ConstTensorView rows, std::span<const std::int64_t> offsets,
                            ConstTensorView tokens) {
  const Span span(ctx.clock, "experts", TimePart::kOther, ComparedCall::kExperts);
  rows_ = rows;
  parts_ = parts_of(offsets);
  tokens_ = tokens;
  const TensorView y = ctx.arena->allocate({rows.extent(0), down_weight_.outputs()}, ctx.compute);  // [R, D_out]
  std::optional<Arena::Mark> forgotten;
  if (recompute_ || !ctx.training) forgotten.emplace(*ctx.arena);
  compute_hidden(ctx);
  for (const Part& part : parts_) {
    down_weight_.forward(ctx, part.of(hidden_), part.of(y), part.offsets);
  }
  return y;
}

void Experts::compute_hidden(Context& ctx) {
  const std::int64_t rows = rows_.extent(0);
  preactivation_ = ctx.arena->allocate({rows, input_weight_.outputs()}, ctx.compute);
  hidden_ = ctx.arena->allocate({rows, d_ff_}, ctx.compute);
  for (const Part& part : parts_) {
    input_weight_.forward(ctx, part.of(rows_), part.of(preactivation_), part.offsets);
  }
  hidden_layer(ctx, activation_, preactivation_, hidden_);
  if (drops_out(ctx)) drop_out(ctx);
}

TensorView Experts::backward(Context& ctx, ConstTensorView dy) {
  const Span span(ctx.clock, "experts backward", TimePart::kOther, ComparedCall::kExperts);
  const TensorView drows = ctx.arena->allocate(rows_.shape(), rows_.dtype());  // [R, D]
  const Arena::Mark scratch(*ctx.arena);
  if (recompute_) compute_hidden(ctx);
  const TensorView dhidden = ctx.arena->allocate(hidden_.shape(), hidden_.dtype());  // [R, F]
  const TensorView dpreactivation = preactivation_;  // [R, P F]: the gradient takes the place of the value

  for (const Part& part : parts_) {
    down_weight_.input_gradient(ctx, part.of(dy), part.of(dhidden), part.offsets);
  }
  if (dropout_ > 0) dropout_backward(ctx, {.kept = kept_, .rate = dropout_, .dx = dhidden});
  hidden_layer_backward(ctx, activation_, preactivation_, dhidden, dpreactivation);
  for (const Part& part : parts_) {
    down_weight_.weight_gradient(ctx, part.of(dy), part.of(hidden_), part.offsets);
    input_weight_.weight_gradient(ctx, part.of(dpreactivation), part.of(rows_), part.offsets);
    input_weight_.input_gradient(ctx, part.of(dpreactivation), part.of(drows), part.offsets);
    if (&part == &parts_.back()) break;  // who calls backward folds its gradient with those of other layers
    down_.fold_gradient();
    input_.fold_gradient();
  }
  return drows;
}

std::vector<Experts::Part> Experts::parts_of(std::span<const std::int64_t> offsets) const {
  const auto experts = static_cast<std::size_t>(local_experts_.size());
  std::vector<Part> parts(experts == 0 ? 1 : (offsets.size() - 1) / experts);
  CONCLAVE_CHECK_EQ(offsets.size(), parts.size() * experts + 1, "offsets of the experts' rows");
  for (std::size_t p = 0; p < parts.size(); ++p) {
    const auto own = offsets.subspan(p * experts, experts + 1);
    parts[p].rows = {own.front(), own.back()};
    for (const std::int64_t offset : own) parts[p].offsets.push_back(offset - own.front());
  }
  return parts;
}

void Experts::drop_out(Context& ctx) {
  CONCLAVE_CHECK_EQ(tokens_.elements(), hidden_.extent(0), "token numbers of the experts' rows");
  kept_ = ctx.arena->allocate(hidden_.shape(), DType::kUInt8);
  const Arena::Mark scratch(*ctx.arena);
  // Row of token t at expert e: blocks from (t E + e) * blocks a row.
  const std::span<std::int64_t> first_block =
      ctx.arena->allocate({hidden_.extent(0)}, DType::kInt64).values<std::int64_t>();
  const std::int64_t all_experts = down_.global_shape()[0];
  for (const Part& part : parts_) {
    for (std::int64_t expert = local_experts_.begin; expert < local_experts_.end; ++expert) {
      const auto local = static_cast<std::size_t>(expert - local_experts_.begin);
      const std::int64_t last = part.rows.begin + part.offsets[local + 1];
      for (std::int64_t row = part.rows.begin + part.offsets[local]; row < last; ++row) {
        first_block[static_cast<std::size_t>(row)] =
            (tokens_.data<std::int64_t>()[row] * all_experts + expert) * dropout_blocks(d_ff_);
      }
    }
  }
  dropout(ctx, {.random = RandomStream(seed_, name_ + "/dropout", static_cast<std::uint64_t>(ctx.batch.step)),
                .first_block = first_block,
                .rate = dropout_,
                .x = hidden_,
                .kept = kept_});
}

void Experts::collect_parameters(std::vector<Parameter*>& parameters) {
  parameters.push_back(&input_);
  parameters.push_back(&down_);
}

}  // namespace conclave
