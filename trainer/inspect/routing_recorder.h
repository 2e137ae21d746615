// Records every routing decision of some training steps (log.routing, log.routing_every).
#pragma once

#include <cstdint>
#include <string>

#include "layers/model/model.h"
#include "trainer/data/batch.h"
#include "trainer/data/training_data.h"
#include "trainer/inspect/routing_record.h"

namespace conclave {

class RoutingRecorder {
 public:
  // All of these must outlive the recorder. With log.routing empty, or a dense model, it
  // does nothing.
  RoutingRecorder(const config::Experiment& experiment, const Model& model, const data::TrainingData& dataset,
                  Communicator& world);

  // After the forward of each micro-batch, before the arena is reset: keeps this rank's part, if the step is
  // one to be recorded.
  void after_forward(const BatchPosition& position, const data::MicroBatch& batch);

  // Collective, after each step (counted from 0): gathers what was kept on rank 0, which writes the record.
  // That takes memory for the decisions of the whole global batch there. Returns what went wrong, the same on
  // every rank; "" if nothing did.
  std::string end_step(std::int64_t step);

 private:
  bool records(std::int64_t step) const;
  RoutingRecord joined(std::int64_t step, const std::vector<std::string>& parts_of_ranks) const;

  std::string directory_;
  std::int64_t every_;
  std::int64_t global_batch_;
  const config::Experiment& experiment_;
  const Model& model_;
  const data::TrainingData& dataset_;
  Communicator& world_;

  std::string parts_;  // this rank's micro-batches of the step, packed for the way to rank 0
};

}  // namespace conclave
