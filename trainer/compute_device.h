// run.device: where the model is computed.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "comm/communicator.h"
#include "configs/run.pb.h"
#include "layers/cuda/engine.h"
#include "layers/model/model.h"
#include "trainer/placement.h"

namespace conclave {

// The GPU of each rank, or nothing for CPUs: the same kind on every rank. `auto` takes GPUs where every rank
// has one. Collective. Throws the same ConfigError on every rank where cuda is asked for and a rank has no
// GPU, or where ranks would share a GPU unasked (trainer/placement.h).
std::optional<Placement> place_for(const config::Experiment& experiment, Communicator& world);

// What follows from run.device for this rank.
struct ComputeDevice {
  // Collective over `all_ranks`, which must outlive it. Throws as place_for() does.
  ComputeDevice(const config::Experiment& experiment, Communicator& all_ranks);

  std::optional<Placement> placement;       // on GPUs; nothing: CPUs compute
  std::unique_ptr<cuda::Engine> gpu;        // of this rank; null: the CPU computes
  std::unique_ptr<Communicator> gpu_world;  // the ranks of the world, for what lies on GPUs
  Communicator& world;                      // that one where GPUs compute

  // Where tensors lie.
  Device memory() const { return gpu != nullptr ? gpu->device() : Device(); }
  // Parameters are made on the host, and move once.
  Model& moved_here(Model& model) const;
  // What was enqueued is done: tensors may be read on the host. Does nothing without a GPU.
  void synchronize() const;
};

// "GPU 0, NVIDIA H100 80GB HBM3, CUDA 13.0", or "CPU" with the reason if this program could have used a GPU;
// null: CPU.
std::string describe_device(const cuda::Engine* gpu);

// Which operators ran on the host, for want of a kernel, and how often; said after the first step. Empty if
// none did.
std::string describe_calls_on_host(const cuda::Engine& gpu);

}  // namespace conclave
