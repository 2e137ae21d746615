#include "layers/moe/round_trip.h"

#include <exception>

#include "layers/ops/check_shape.h"

namespace conclave {
namespace {

TensorView of_chunk(const TensorView& all, Range rows) { return all.rows(rows.begin, rows.end); }

}  // namespace

RoundTrip::RoundTrip(Context& ctx, Exchange& exchange, TensorView rows)
    : ctx_(ctx), exchange_(exchange), rows_(rows) {
  CONCLAVE_CHECK_EQ(rows.extent(0), exchange.sent_rows(), "rows to exchange, against the plan");
  if (exchange.ranks() == 1) return;
  const Shape shape = rows.shape().with_rows(exchange.received_rows());
  received_ = ctx.arena->allocate(shape, rows.dtype());
  bool in_order = true;
  for (std::int64_t chunk = 0; chunk < exchange.chunks(); ++chunk)
    in_order = in_order && exchange.arrives_in_order(chunk);
  wire_ = in_order ? received_ : ctx.arena->allocate(shape, rows.dtype());
  for (std::int64_t chunk = 0; chunk < exchange.chunks(); ++chunk)
    exchange.start_dispatch(ctx, chunk, rows, on_wire(chunk));
}

RoundTrip::~RoundTrip() {
  if (std::uncaught_exceptions() > 0) exchange_.abandon();
}

TensorView RoundTrip::on_wire(std::int64_t chunk) const {
  return of_chunk(exchange_.arrives_in_order(chunk) ? received_ : wire_, exchange_.received_rows(chunk));
}

TensorView RoundTrip::arrived(std::int64_t chunk) {
  if (exchange_.ranks() == 1) return rows_;
  exchange_.finish_dispatch(ctx_, chunk);
  const TensorView rows = of_chunk(received_, exchange_.received_rows(chunk));
  if (!exchange_.arrives_in_order(chunk)) exchange_.order_for_experts(ctx_, chunk, on_wire(chunk), rows);
  return rows;
}

// The chunk's rows have left their places on the token side, so that those that come back can take them, and
// its part of the wire is free.
void RoundTrip::send_back(std::int64_t chunk, TensorView rows) {
  if (exchange_.ranks() == 1) {
    rows_ = rows;
    return;
  }
  check_shape(rows, rows_.shape().with_rows(exchange_.received_rows(chunk).size()), "rows to send back");
  if (exchange_.arrives_in_order(chunk)) {
    exchange_.start_combine(ctx_, chunk, rows, rows_);
  } else {
    exchange_.order_for_wire(ctx_, chunk, rows, on_wire(chunk));
    exchange_.start_combine(ctx_, chunk, on_wire(chunk), rows_);
  }
}

TensorView RoundTrip::finish() {
  if (exchange_.ranks() == 1) return rows_;
  for (std::int64_t chunk = 0; chunk < exchange_.chunks(); ++chunk) exchange_.finish_combine(ctx_, chunk);
  return rows_;
}

}  // namespace conclave
