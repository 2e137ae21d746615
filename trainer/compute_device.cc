#include "trainer/compute_device.h"

#include <array>
#include <cstdint>
#include <span>

#include "comm/base/error.h"
#include "comm/cuda/runtime.h"

namespace conclave {
namespace {

bool model_has_kernels(const config::Experiment& experiment) {
  return experiment.model().kind() == config::Model::language;
}

// Why there is no GPU, for who asked for one.
std::string remedy() {
  if (!cuda::is_built_in()) return cuda::description();
  return fmt::format(
      "{} finds no GPU here (nvidia-smi lists what the driver sees; CUDA_VISIBLE_DEVICES hides)",
      cuda::description());
}

}  // namespace

std::optional<Placement> place_for(const config::Experiment& experiment, Communicator& world) {
  const auto wanted = experiment.run().device();
  if (wanted == config::Run::cpu) return std::nullopt;
  if (!model_has_kernels(experiment)) {
    if (wanted == config::Run::auto_) return std::nullopt;
    throw ConfigError(
        "run.device: cuda is for model.kind: language; the mixture of local experts is computed on the CPU; "
        "valid: "
        "cpu or auto");
  }
  std::array<std::int64_t, 1> without{cuda::gpus().empty() ? 1 : 0};
  world.all_reduce(buffer_view(std::span<std::int64_t>(without)));
  if (without[0] == 0) return place_on_gpus(experiment.run(), world);
  if (wanted == config::Run::auto_) return std::nullopt;
  throw ConfigError(
      fmt::format("run.device: cuda, but {} of {} ranks have no GPU; {}; run.device: cpu runs here",
                  without[0], world.size(), remedy()));
}

std::string describe_device(const cuda::Engine* gpu) {
  if (gpu == nullptr) {
    if (!cuda::is_built_in()) return "CPU";
    return fmt::format("CPU, though this program is built with {}: {}", cuda::description(),
                       cuda::gpus().empty() ? "there is no GPU here" : "see run.device");
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
