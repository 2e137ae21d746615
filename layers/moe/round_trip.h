// Rows on their way to the experts and back, chunk by chunk (exchange.h): while the experts of one chunk
// compute, the rows of later chunks are travelling to theirs, and the answers of earlier ones are on their
// way back.
//
//   RoundTrip trip(ctx, exchange, rows);
//   for (std::int64_t chunk = 0; chunk < exchange.chunks(); ++chunk)
//     trip.send_back(chunk, answers(trip.arrived(chunk)));
//   rows = trip.finish();
//
// What travels moves on while a rank waits, and whenever it calls Communicator::progress().
#pragma once

#include <cstdint>

#include "layers/context.h"
#include "layers/moe/exchange.h"

namespace conclave {

class RoundTrip {
 public:
  // Collective, as are all functions, over the expert-parallel group; every rank calls the same in the same
  // order. All chunks of rows [R, D], in the order of the plan that `exchange` has agreed on, set out. They
  // belong to the trip until finish(), and come back changed.
  RoundTrip(Context& ctx, Exchange& exchange, TensorView rows);
  // Waits for nothing: where an exception ends the trip, the job is ending.
  ~RoundTrip();
  RoundTrip(const RoundTrip&) = delete;
  RoundTrip& operator=(const RoundTrip&) = delete;

  // Waits for a chunk. -> [R'_c, D], in ctx.arena, ordered as exchange.received_offsets(chunk) says.
  TensorView arrived(std::int64_t chunk);
  // Sends back what became of the rows of a chunk that has arrived: [R'_c, D], of their type; belongs to the
  // trip until finish().
  void send_back(std::int64_t chunk, TensorView rows);
  // Waits for all chunks to be back. -> [R, D], in the order of the plan: in the memory of the rows that set
  // out, or in a group of one what was sent back.
  TensorView finish();

 private:
  TensorView on_wire(std::int64_t chunk) const;

  Context& ctx_;
  Exchange& exchange_;
  TensorView rows_;      // [R, D]
  TensorView received_;  // [R', D], by chunk
  TensorView wire_;      // [R', D], by chunk; where one arrives in another order
};

}  // namespace conclave
