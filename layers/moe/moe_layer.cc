#include "layers/moe/moe_layer.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "layers/cuda/arguments.h"
#include "layers/model/initialisation.h"
#include "layers/moe/round_trip.h"
#include "layers/moe/router/expert_choice_router.h"
#include "layers/ops/add/add.h"
#include "layers/ops/permute/permute.h"

namespace conclave {

static_assert(kDroppedChoice == DispatchPlan::kDropped && kNoChoiceOfRow == DispatchPlan::kNoChoice);

namespace {

ExpertsOptions expert_options(const config::Experiment& experiment, const ProcessGrid& grid) {
  const config::Model& model = experiment.model();
  return {.experts = experiment.moe().experts(),
          .local_experts = grid.local_experts(experiment.moe().experts()),
          .d_model = model.d_model(),
          .d_ff = experiment.moe().d_ff(),
          .seed = experiment.run().seed(),
          .init_std = model.init_std(),
          .output_init_std = residual_init_std(model),
          .activation = experiment.moe().activation(),
          .dropout = experiment.moe().expert_dropout(),
          .recompute = experiment.train().recompute() == config::Train::experts};
}

}  // namespace

MoeLayer::MoeLayer(const config::Experiment& experiment, const std::string& name, const ProcessGrid& grid)
    : config_(experiment.moe()),
      copies_routing_(experiment.train().recompute() == config::Train::block &&
                      !experiment.log().routing().empty()),
      router_(make_router(experiment, name + ".router")),
      exchange_(config_.experts(), grid, row_order(experiment), experiment.parallel().exchange_chunks()),
      experts_(name + ".experts", expert_options(experiment, grid)) {
  if (config_.shared_experts() > 0) {
    shared_ = std::make_unique<SharedExperts>(experiment, name);
  }
  if (experiment.run().cuda_graphs() && config_.pad_to_capacity()) {
    std::vector<Parameter*> parameters;
    collect_parameters(parameters);
    replayed_ = std::make_unique<cuda::ReplayedPasses>(std::move(parameters));
  }
  take_statistics();
}

TensorView MoeLayer::forward(Context& ctx, ConstTensorView x) {
  exchange_.enter(ctx);
  if (!ctx.recomputing) statistics_.tokens += x.extent(0) - ctx.padding_tokens();
  if (ctx.on_gpu()) renew_copies(ctx);
  if (is_replayed(ctx)) return replayed_->forward(ctx, x, [&] { return compute(ctx, x); });
  if (replayed_ != nullptr) replayed_->forget(ctx);
  return compute(ctx, x);
}

TensorView MoeLayer::backward(Context& ctx, ConstTensorView dy) {
  exchange_.enter(ctx);
  if (is_replayed(ctx)) return replayed_->backward(ctx, dy, [&] { return differentiate(ctx, dy); });
  return differentiate(ctx, dy);
}

// Flags of padding come from the host, others for each micro-batch.
bool MoeLayer::is_replayed(const Context& ctx) const {
  return replayed_ != nullptr && ctx.on_gpu() && ctx.training && ctx.padding.elements() == 0;
}

void MoeLayer::renew_copies(Context& ctx) {
  router_->renew_copies(ctx);
  experts_.renew_copies(ctx);
  if (shared_) shared_->renew_copies(ctx);
}

TensorView MoeLayer::compute(Context& ctx, ConstTensorView x) {
  const std::int64_t d_model = x.extent(1);
  const bool fill_up = ctx.training && config_.pad_to_capacity();
  route(ctx, x);
  const std::int64_t capacity = fill_up ? agreed_capacity(ctx) : capacity_of(ctx, x.extent(0));
  dispatched_ = dispatch(ctx, capacity, fill_up);
  combine_weights_ = routing_.weights;
  if (config_.renormalize_after_drop()) {
    const TensorView survivors = ctx.arena->allocate(routing_.weights.shape());
    survivor_weights(ctx, survivor_args(), survivors);
    combine_weights_ = survivors;
  }
  if (fill_up) {
    exchange_.agree_on_equal_rows(dispatched_, capacity);
  } else {
    exchange_.agree(ctx, dispatched_);
  }

  TensorView rows = ctx.arena->allocate({dispatched_.rows(), d_model}, ctx.compute);  // [R, D], in plan order
  gather_rows(ctx,
              {.x = x, .choice_of_row = dispatched_.choice_of_row, .top_k = choices_a_token(), .rows = rows});
  TensorView numbers;  // [R', 1], of the tokens, where the experts need them
  if (experts_.drops_out(ctx)) numbers = exchange_.dispatch(ctx, token_numbers(ctx));

  RoundTrip trip(ctx, exchange_, rows);  // the rows leave for the ranks of their experts
  const TensorView y = shared_ ? shared_->forward(ctx, x) : ctx.arena->allocate(x.shape());  // [T, D]
  for (std::int64_t chunk = 0; chunk < exchange_.chunks(); ++chunk) {
    rows = trip.arrived(chunk);  // [R'_c, D], by local expert
    rows = experts_.forward(ctx, rows, exchange_.received_offsets(chunk), of_chunk(chunk, numbers), chunk);
    trip.send_back(chunk, rows);  // [R'_c, D]
  }
  expert_output_ = trip.finish();  // [R, D], in plan order
  combine_rows(ctx, {.rows = expert_output_,
                     .weights = combine_weights_,
                     .row_of_choice = dispatched_.row_of_choice,
                     .y = y,
                     .accumulate = shared_ != nullptr});
  return y;
}

void MoeLayer::route(Context& ctx, ConstTensorView x) {
  const Span span(ctx.clock, "router", TimePart::kOther);
  MoeStatistics counted_before;
  if (ctx.on_gpu() && tally_ == nullptr)
    tally_ = std::make_unique<GpuTally>(ctx, config_.experts(), config_.top_k());
  with_router(ctx, [&](Context& where) {
    const bool adds_up = where.on_gpu() && !ctx.recomputing;
    where.routing_sums = adds_up ? &tally_->sums() : nullptr;
    routing_ = router_->forward(where, x, ctx.recomputing ? counted_before : statistics_);
    where.routing_sums = nullptr;
  });
  if (ctx.recomputing) return;
  routing_copy_.clear();
  if (!copies_routing_ || !ctx.training) return;
  ctx.synchronize();
  routing_copy_.assign(routing_);
}

DispatchedRows MoeLayer::dispatch(Context& ctx, std::int64_t capacity, bool fill_up) {
  const bool counts = !ctx.recomputing;
  if (ctx.on_gpu()) {
    return dispatch_on_gpu(ctx, routing_,
                           {.experts = config_.experts(),
                            .capacity = capacity,
                            .drop = config_.drop(),
                            .fill_up = fill_up,
                            .counts = counts ? &tally_->counts() : nullptr});
  }
  make_dispatch_plan(routing_, config_.experts(), capacity, config_.drop(), plan_);
  if (counts) count_statistics();
  if (fill_up) fill_up_to_capacity(capacity, plan_);
  return rows_of(plan_);
}

TensorView MoeLayer::differentiate(Context& ctx, ConstTensorView dy) {
  const TensorView dweights = ctx.arena->allocate(routing_.weights.shape());  // [T, K]
  TensorView drows = expert_output_;  // [R, D]: each row's gradient takes the place of the row
  combine_rows_backward(ctx, {.dy = dy,
                              .rows = expert_output_,
                              .weights = combine_weights_,
                              .row_of_choice = dispatched_.row_of_choice,
                              .drows = drows,
                              .dweights = dweights});
  if (config_.renormalize_after_drop()) {
    survivor_weights_backward(ctx, survivor_args(), dweights, dweights);
  }
  clear_rows_without_choice(ctx, dispatched_.choice_of_row, drows);

  RoundTrip trip(ctx, exchange_, drows);                // gradients go the way of the rows, backwards
  const TensorView dx = route_backward(ctx, dweights);  // [T, D]
  const TensorView dx_of_shared = shared_ ? shared_->backward(ctx, dy) : TensorView();  // [T, D]
  for (std::int64_t chunk = 0; chunk < exchange_.chunks(); ++chunk)
    trip.send_back(chunk, experts_.backward(ctx, trip.arrived(chunk), chunk));  // [R'_c, D]
  drows = trip.finish();                                                        // [R, D]

  gather_rows_backward(
      ctx,
      {.drows = drows, .row_of_choice = dispatched_.row_of_choice, .top_k = choices_a_token(), .dx = dx});
  if (shared_) add(ctx, {.a = dx, .b = dx_of_shared, .sum = dx});
  return dx;
}

template <class Function>
void MoeLayer::with_router(Context& ctx, Function function) {
  if (!ctx.on_gpu() || router_->has_kernels()) return function(ctx);
  std::vector<Parameter*> parameters;
  router_->collect_parameters(parameters);
  for (const Parameter* parameter : parameters)
    parameter->gradient();  // writes zeros that are due, on the GPU
  cuda::on_host(ctx, "router", [&] {
    Context host = ctx;
    host.gpu = nullptr;
    function(host);
  });
}

TensorView MoeLayer::route_backward(Context& ctx, ConstTensorView dweights) {
  const Span span(ctx.clock, "router backward", TimePart::kOther);
  TensorView dx;
  with_router(ctx, [&](Context& where) { dx = router_->backward(where, dweights); });
  return dx;
}

const Routing& MoeLayer::last_routing() const {
  if (tally_ != nullptr) tally_->wait();
  return routing_copy_.is_empty() ? routing_ : routing_copy_.routing();
}

void MoeLayer::collect_parameters(std::vector<Parameter*>& parameters) {
  router_->collect_parameters(parameters);
  experts_.collect_parameters(parameters);
  if (shared_) shared_->collect_parameters(parameters);
}

const MoeStatistics& MoeLayer::statistics() {
  if (tally_ != nullptr) tally_->move_to(statistics_, exchange_);
  return statistics_;
}

MoeStatistics MoeLayer::take_statistics(MoeStatistics next) {
  statistics();  // what a GPU has counted belongs to those that are taken
  next.chosen_per_expert.resize(static_cast<std::size_t>(config_.experts()), 0);
  next.chosen_per_choice.resize(static_cast<std::size_t>(config_.top_k()), 0);
  next.dropped_per_choice.resize(static_cast<std::size_t>(config_.top_k()), 0);
  next.sent_per_rank.resize(static_cast<std::size_t>(exchange_.ranks()), 0);
  return std::exchange(statistics_, std::move(next));
}

TensorView MoeLayer::token_numbers(Context& ctx) const {
  const TensorView numbers = ctx.arena->allocate({dispatched_.rows(), 1}, DType::kInt64);
  const std::int64_t first_token = ctx.batch.first_sequence * ctx.batch.sequence_length;
  if (ctx.on_gpu()) {
    cuda::token_numbers(cuda::stream_of(ctx), dispatched_.choice_of_row.data<std::int32_t>(), first_token,
                        choices_a_token(), numbers.data<std::int64_t>(), dispatched_.rows());
    return numbers;
  }
  std::ranges::transform(plan_.choice_of_row, numbers.data<std::int64_t>(), [&](std::int32_t choice) {
    const bool is_filling = choice == DispatchPlan::kNoChoice;  // a zero row
    return is_filling ? 0 : first_token + choice / plan_.top_k;
  });
  return numbers;
}

ConstTensorView MoeLayer::of_chunk(std::int64_t chunk, ConstTensorView rows) const {
  const Range own = exchange_.received_rows(chunk);
  return rows.raw() == nullptr ? rows : rows.rows(own.begin, own.end);
}

SurvivorWeightsArgs MoeLayer::survivor_args() const {
  return {.weights = routing_.weights,
          .row_of_choice = dispatched_.row_of_choice,
          .scale = static_cast<float>(config_.routed_scale())};
}

std::int64_t MoeLayer::capacity_of(const Context& ctx, std::int64_t tokens) const {
  const bool limited = ctx.training && config_.router() != config::Moe::expert_choice;
  if (!limited || config_.capacity_factor() == 0) return tokens;  // no token goes to an expert twice
  return expert_capacity(config_.capacity_factor(), tokens - ctx.padding_tokens(), config_.top_k(),
                         config_.experts());
}

std::int64_t MoeLayer::agreed_capacity(const Context& ctx) const {
  const std::int64_t sequences = ctx.batch.most_sequences;
  const std::int64_t length = ctx.batch.sequence_length;
  CONCLAVE_CHECK(sequences >= ctx.batch.sequences,
                 "moe.pad_to_capacity: this rank has {} sequences, the largest is said to have {}",
                 ctx.batch.sequences, sequences);
  if (config_.router() == config::Moe::expert_choice)
    return sequences * expert_choice_capacity(config_, length);
  const std::int64_t tokens = sequences * length;
  return std::min(tokens,
                  expert_capacity(config_.capacity_factor(), tokens, config_.top_k(), config_.experts()));
}

void MoeLayer::count_statistics() {
  exchange_.add_by_rank(plan_.kept_per_expert, statistics_.sent_per_rank);
  for (std::size_t e = 0; e < statistics_.chosen_per_expert.size(); ++e) {
    statistics_.chosen_per_expert[e] += plan_.chosen_per_expert[e];
  }
  for (std::size_t k = 0; k < statistics_.dropped_per_choice.size(); ++k) {
    statistics_.chosen_per_choice[k] += plan_.chosen_per_choice[k];
    statistics_.dropped_per_choice[k] += plan_.dropped_per_choice[k];
  }
}

}  // namespace conclave
