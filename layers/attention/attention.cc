#include "layers/attention/attention.h"

#include "layers/ops/check_shape.h"
#include "layers/ops/rms_norm/rms_norm.h"

namespace conclave {
namespace {

AttentionShape resolved_shape(const config::Model& model) {
  CONCLAVE_CHECK(model.heads() > 0 && model.kv_heads() > 0 && model.head_dim() > 0,
                 "attention needs resolved heads, found model.heads {}, model.kv_heads {}, model.head_dim {}",
                 model.heads(), model.kv_heads(), model.head_dim());
  CONCLAVE_CHECK(model.heads() % model.kv_heads() == 0,
                 "model.heads = {} is no multiple of model.kv_heads = {}", model.heads(), model.kv_heads());
  return {model.heads(), model.kv_heads(), model.head_dim()};
}

// [T, heads hd] as the rows that `norm` is taken over: one a head, or one a token.
TensorView norm_rows(const TensorView& tensor, const Parameter& norm) {
  const std::int64_t width = norm.value().elements();
  return tensor.reshaped({tensor.elements() / width, width});
}

RotaryArgs rotary_args(const TensorView& tensor, const RotaryTable& table, std::int64_t sequence_length,
                       std::int64_t first_position) {
  const std::int64_t heads = tensor.extent(1) / table.head_dim();
  return {.x = tensor.reshaped({tensor.extent(0), heads, table.head_dim()}),
          .table = &table,
          .sequence_length = sequence_length,
          .first_position = first_position};
}

}  // namespace

Attention::Attention(const config::Model& model, const std::string& name, double init_std,
                     double output_init_std, std::uint64_t seed)
    : shape_(resolved_shape(model)),
      causal_(model.causal()),
      d_model_(model.d_model()),
      norm_eps_(static_cast<float>(model.norm_eps())),
      rotary_table_(model.max_seq(), model.head_dim(), model.rope_theta()),
      qkv_(name + ".qkv", {shape_.query_width() + 2 * shape_.kv_width(), d_model_}),
      out_(name + ".out", {d_model_, shape_.query_width()}),
      query_weight_(qkv_, {0, shape_.query_width()}),
      key_weight_(qkv_, {shape_.query_width(), shape_.query_width() + shape_.kv_width()}),
      value_weight_(qkv_, {shape_.query_width() + shape_.kv_width(), qkv_.value().extent(0)}),
      out_weight_(out_) {
  qkv_.initialise_normal(seed, init_std);
  out_.initialise_normal(seed, output_init_std);
  if (!model.qk_norm()) return;
  const bool over_width = model.qk_norm_over() == config::Model::width;
  q_norm_.emplace(name + ".q_norm", Shape{over_width ? shape_.query_width() : shape_.head_dim});
  k_norm_.emplace(name + ".k_norm", Shape{over_width ? shape_.kv_width() : shape_.head_dim});
  for (Parameter* norm : {&*q_norm_, &*k_norm_}) {
    norm->initialise_constant(1.0F);
    norm->decays = false;
  }
}

void Attention::collect_parameters(std::vector<Parameter*>& parameters) {
  parameters.push_back(&qkv_);
  parameters.push_back(&out_);
  if (q_norm_) parameters.push_back(&*q_norm_);
  if (k_norm_) parameters.push_back(&*k_norm_);
}

TensorView Attention::forward(Context& ctx, ConstTensorView x) {
  const std::int64_t tokens = ctx.batch.tokens();
  check_shape(x, {tokens, d_model_}, "input of attention");
  const TensorView y = ctx.arena->allocate({tokens, d_model_});
  std::optional<Arena::Mark> scratch;  // without a backward everything but y is given back
  if (!ctx.training) scratch.emplace(*ctx.arena);

  const Projected projected = project(ctx, x, ctx.batch.sequence_length, 0);
  const TensorView attended = ctx.arena->allocate({tokens, shape_.query_width()});
  const TensorView log_sum_exp = ctx.arena->allocate({tokens, shape_.heads});
  attention_forward(ctx, {.shape = shape_,
                          .sequence_length = ctx.batch.sequence_length,
                          .causal = causal_,
                          .padding = ctx.padding,
                          .q = projected.q.rotated,
                          .k = projected.k.rotated,
                          .v = projected.v,
                          .y = attended,
                          .log_sum_exp = log_sum_exp});
  out_weight_.forward(ctx, attended, y);
  if (ctx.training) saved_ = Saved{x, projected, attended, log_sum_exp};
  return y;
}

TensorView Attention::backward(Context& ctx, ConstTensorView dy) {
  CONCLAVE_CHECK(saved_.has_value(), "backward of {} without a forward in training", out_.name());
  const auto [x, projected, attended, log_sum_exp] = *saved_;
  saved_.reset();
  const TensorView dx = ctx.arena->allocate(x.shape());
  const Arena::Mark scratch(*ctx.arena);

  const TensorView dattended = ctx.arena->allocate(attended.shape());
  out_weight_.input_gradient(ctx, dy, dattended);
  out_weight_.weight_gradient(ctx, dy, attended);

  const TensorView dq = ctx.arena->allocate(projected.q.rotated.shape());
  const TensorView dk = ctx.arena->allocate(projected.k.rotated.shape());
  const TensorView dv = ctx.arena->allocate(projected.v.shape());
  attention_backward(ctx, {.shape = shape_,
                           .sequence_length = ctx.batch.sequence_length,
                           .causal = causal_,
                           .padding = ctx.padding,
                           .q = projected.q.rotated,
                           .k = projected.k.rotated,
                           .v = projected.v,
                           .y = attended,
                           .log_sum_exp = log_sum_exp,
                           .dy = dattended,
                           .dq = dq,
                           .dk = dk,
                           .dv = dv});
  backward_heads(ctx, dq, projected.q, q_norm_);
  backward_heads(ctx, dk, projected.k, k_norm_);
  query_weight_.input_gradient(ctx, dq, dx);
  key_weight_.input_gradient(ctx, dk, dx, {}, /*accumulate=*/true);
  value_weight_.input_gradient(ctx, dv, dx, {}, /*accumulate=*/true);
  query_weight_.weight_gradient(ctx, dq, x);
  key_weight_.weight_gradient(ctx, dk, x);
  value_weight_.weight_gradient(ctx, dv, x);
  return dx;
}

TensorView Attention::forward_cached(Context& ctx, ConstTensorView x, KvCache& cache) {
  CONCLAVE_CHECK(causal_,
                 "{} sees all of a sequence (model.causal: false): it can't be continued from a cache",
                 qkv_.name());
  check_matrix(x, "input of attention with a cache");
  const std::int64_t tokens = x.extent(0);
  check_shape(x, {tokens, d_model_}, "input of attention with a cache");
  const TensorView y = ctx.arena->allocate({tokens, d_model_});
  const Arena::Mark scratch(*ctx.arena);

  const Projected projected = project(ctx, x, tokens, cache.length());
  cache.append(ctx, projected.k.rotated, projected.v);
  const TensorView attended = ctx.arena->allocate({tokens, shape_.query_width()});
  attention_decode(
      ctx,
      {.shape = shape_, .q = projected.q.rotated, .k = cache.keys(), .v = cache.values(), .y = attended});
  out_weight_.forward(ctx, attended, y);
  return y;
}

Attention::Projected Attention::project(Context& ctx, ConstTensorView x, std::int64_t sequence_length,
                                        std::int64_t first_position) {
  return {
      .q =
          normalise_and_rotate(ctx, project(ctx, x, query_weight_), q_norm_, sequence_length, first_position),
      .k = normalise_and_rotate(ctx, project(ctx, x, key_weight_), k_norm_, sequence_length, first_position),
      .v = project(ctx, x, value_weight_)};
}

// Three products instead of one cost 3 % more, and leave queries, keys and values contiguous for everything
// that follows.
TensorView Attention::project(Context& ctx, ConstTensorView x, LinearWeight& weight) {
  const TensorView projected = ctx.arena->allocate({x.extent(0), weight.outputs()});
  weight.forward(ctx, x, projected);
  return projected;
}

Attention::Heads Attention::normalise_and_rotate(Context& ctx, TensorView projected,
                                                 const std::optional<Parameter>& norm,
                                                 std::int64_t sequence_length, std::int64_t first_position) {
  Heads heads{.projected = projected, .rstd = {}, .rotated = projected};
  if (norm) {
    const TensorView rows = norm_rows(projected, *norm);
    heads.rstd = ctx.arena->allocate({rows.extent(0)});
    heads.rotated = ctx.arena->allocate(projected.shape());
    rms_norm(ctx, {.x = rows,
                   .weight = norm->value(),
                   .y = norm_rows(heads.rotated, *norm),
                   .rstd = heads.rstd,
                   .eps = norm_eps_});
  }
  rotary(ctx, rotary_args(heads.rotated, rotary_table_, sequence_length, first_position));
  return heads;
}

// In place: the gradient of heads.rotated becomes that of heads.projected.
void Attention::backward_heads(Context& ctx, TensorView dheads, const Heads& heads,
                               std::optional<Parameter>& norm) {
  rotary_backward(ctx, rotary_args(dheads, rotary_table_, ctx.batch.sequence_length, 0));
  if (!norm) return;
  const TensorView dy = norm_rows(dheads, *norm);
  rms_norm_backward(ctx, {.dy = dy,
                          .x = norm_rows(heads.projected, *norm),
                          .weight = norm->value(),
                          .rstd = heads.rstd,
                          .dx = dy,
                          .dweight = norm->gradient()});
}

}  // namespace conclave
