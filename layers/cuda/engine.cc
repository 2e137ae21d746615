#include "layers/cuda/engine.h"

#include "layers/cuda/blas.h"

namespace conclave::cuda {

Engine::Engine(int index) : stream_(index), staging_(stream_), blas_(std::make_unique<Blas>(stream_)) {}

// In this file, where Blas is complete.
Engine::~Engine() = default;

}  // namespace conclave::cuda
