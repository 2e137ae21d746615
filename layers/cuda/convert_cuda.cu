#include "layers/cuda/elements.cuh"
#include "layers/cuda/launch.cuh"

namespace conclave::cuda {
namespace {

template <class From, class To>
__global__ void convert_kernel(const From* from, To* to, std::int64_t count) {
  const std::int64_t i = global_thread();
  if (i < count) set(to[i], to_float(from[i]));
}

}  // namespace

void convert(StreamHandle stream, ConstElements from, Elements to, std::int64_t count) {
  if (count == 0) return;
  visit(from, [&]<class From>(const From* source) {
    visit(to, [&]<class To>(To* target) {
      launch("convert", stream, blocks_for(count), kThreads, 0, convert_kernel<From, To>, source, target,
             count);
    });
  });
}

}  // namespace conclave::cuda
