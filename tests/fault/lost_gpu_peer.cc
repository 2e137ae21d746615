// Two ranks on GPUs of their own, emulated, of which rank 1 leaves rank 0 waiting in NCCL: lost_gpu_peer
// SCENARIO. Errors end the job as in the product's main().
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>

#include "comm/base/error.h"
#include "comm/cuda/memory.h"
#include "comm/gpu/gpu_communicator.h"
#include "comm/mpi/mpi_communicator.h"
#include "tests/cuda_emulation/nccl.h"
#include "tests/support/test_gpu.h"

namespace conclave {
namespace {

constexpr double kTimeoutSeconds = 2;
constexpr std::int64_t kCount = 10'000;

void run(const std::string& scenario) {
  const test::EmulatedGpus gpus(2);
  const MpiRuntime mpi;
  std::unique_ptr<Communicator> all = make_mpi_world(mpi);
  all->watchdog().set_timeout(kTimeoutSeconds);
  cuda::Stream stream(all->rank());
  const cuda::Memory memory = cuda::allocate(stream.device(), kCount * sizeof(float));
  cuda::fill_with_zeros(stream, memory.get(), kCount * sizeof(float));
  const auto world = make_gpu_communicator(std::move(all), stream);
  if (world->rank() == 1 && scenario == "computes") std::this_thread::sleep_for(std::chrono::minutes(1));
  if (world->rank() == 1 && scenario == "loses_its_connection") emulation::lose_connection();
  world->all_reduce({memory.get(), kCount, DType::kFloat32, stream.device()});
  stream.synchronize();
}

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  try {
    conclave::run(argv[1]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "conclave: rank %d: %s\n", conclave::MpiRuntime::launched_rank(), error.what());
    conclave::MpiRuntime::abort(1);
  }
}
