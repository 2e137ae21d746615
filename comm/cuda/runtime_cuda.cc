#include "comm/cuda/runtime.h"

#include <array>

#include "comm/cuda/check.cuh"

namespace conclave::cuda {

bool is_built_in() { return true; }

std::string description() {
  return fmt::format("CUDA {}.{}", CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
}

std::vector<Gpu> gpus() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  // All mean a machine without GPUs, where a program that could use them runs all the same.
  if (status == cudaErrorNoDevice || status == cudaErrorInsufficientDriver || status == cudaErrorStubLibrary)
    return {};
  check(status, "counting the GPUs");
  std::vector<Gpu> gpus;
  for (int index = 0; index < count; ++index) {
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, index), "reading a GPU's properties");
    std::array<char, 16> pci_bus_id{};
    check(cudaDeviceGetPCIBusId(pci_bus_id.data(), static_cast<int>(pci_bus_id.size()), index),
          "reading a GPU's PCI bus id");
    gpus.push_back({.index = index,
                    .name = properties.name,
                    .memory_bytes = static_cast<std::int64_t>(properties.totalGlobalMem),
                    .compute_major = properties.major,
                    .compute_minor = properties.minor,
                    .multiprocessors = properties.multiProcessorCount,
                    .pci_bus_id = pci_bus_id.data()});
  }
  return gpus;
}

void select(int index) {
  const cudaError_t status = cudaSetDevice(index);
  CONCLAVE_CHECK(status == cudaSuccess, "GPU {} can't be used: {} ({})", index, cudaGetErrorString(status),
                 cudaGetErrorName(status));
}

}  // namespace conclave::cuda
