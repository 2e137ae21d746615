#include "trainer/compute_device.h"

#include <array>
#include <cstdint>
#include <span>

#include "comm/base/error.h"
#include "comm/cuda/runtime.h"
#include "comm/gpu/gpu_communicator.h"
#include "trainer/outdated_driver.h"

namespace conclave {
namespace {

// Why there is no GPU, for who asked for one.
std::string remedy() {
  if (!cuda::is_built_in()) return cuda::description();
  if (const std::string outdated = outdated_driver(cuda::system()); !outdated.empty()) return outdated;
  return fmt::format(
      "{} finds no GPU here (nvidia-smi lists what the driver sees; CUDA_VISIBLE_DEVICES hides)",
      cuda::description());
}

// Null without a GPU. Collective over `world`.
std::unique_ptr<Communicator> world_of_gpus(cuda::Engine* gpu, Communicator& world) {
  if (gpu == nullptr) return nullptr;
  return make_gpu_communicator(world.split(0, world.rank(), world.name()), gpu->stream());
}

}  // namespace

std::optional<Placement> place_for(const config::Experiment& experiment, Communicator& world) {
  const auto wanted = experiment.run().device();
  if (wanted == config::Run::cpu) return std::nullopt;
  std::array<std::int64_t, 1> without{cuda::gpus().empty() ? 1 : 0};
  world.all_reduce(buffer_view(std::span<std::int64_t>(without)));
  if (without[0] == 0) return place_on_gpus(experiment.run(), world);
  if (wanted == config::Run::auto_) return std::nullopt;
  throw ConfigError(
      fmt::format("run.device: cuda, but {} of {} ranks have no GPU; {}; run.device: cpu runs here",
                  without[0], world.size(), remedy()));
}

ComputeDevice::ComputeDevice(const config::Experiment& experiment, Communicator& all_ranks)
    : placement(place_for(experiment, all_ranks)),
      gpu(placement ? std::make_unique<cuda::Engine>(placement->gpu) : nullptr),
      gpu_world(world_of_gpus(gpu.get(), all_ranks)),
      world(gpu_world != nullptr ? *gpu_world : all_ranks) {}

Model& ComputeDevice::moved_here(Model& model) const {
  if (gpu != nullptr) {
    for (Parameter* parameter : model.parameters()) parameter->move_to(gpu->stream());
  }
  return model;
}

void ComputeDevice::synchronize() const {
  if (gpu != nullptr) gpu->stream().synchronize();
}

std::string describe_device(const cuda::Engine* gpu) {
  if (gpu == nullptr) {
    if (!cuda::is_built_in()) return "CPU";
    const std::string outdated = outdated_driver(cuda::system());
    return fmt::format("CPU, though this program is built with {}: {}", cuda::description(),
                       !outdated.empty()      ? outdated
                       : cuda::gpus().empty() ? "there is no GPU here"
                                              : "see run.device");
  }
  const int index = gpu->device().index;
  const cuda::Gpu properties = cuda::gpus()[static_cast<std::size_t>(index)];
  return fmt::format("GPU {}, {}, {:.0f} GiB, {}", index, properties.name,
                     static_cast<double>(properties.memory_bytes) / (1 << 30), cuda::description());
}

std::string describe_calls_on_host(const cuda::Engine& gpu) {
  std::string calls;
  for (const auto& [name, count] : gpu.calls_on_host())
    calls += fmt::format("{}{} {} time{}", calls.empty() ? "" : ", ", name, count, count == 1 ? "" : "s");
  return calls.empty() ? "" : "on the host, for want of a kernel, in the first step: " + calls;
}

}  // namespace conclave
