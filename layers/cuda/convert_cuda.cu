#include "layers/cuda/launch.cuh"
#include "layers/cuda/vectors.cuh"

namespace conclave::cuda {
namespace {

template <int kCount, class From, class To>
__global__ void convert_kernel(const From* from, To* to, std::int64_t count) {
  const std::int64_t i = global_thread() * kCount;
  if (i >= count) return;
  float values[kCount];
  load(values, from + i);
  store(to + i, values);
}

}  // namespace

void convert(StreamHandle stream, ConstElements from, Elements to, std::int64_t count) {
  if (count == 0) return;
  visit(from, [&]<class From>(const From* source) {
    visit(to, [&]<class To>(To* target) {
      with_vectors<kElementsOfAccess<Bf16>>(
          count,
          [&]<class Number>(Number) {
            constexpr int kCount = Number::value;
            launch("convert", stream, blocks_for(count / kCount), kThreads, 0,
                   convert_kernel<kCount, From, To>, source, target, count);
          },
          source, target);
    });
  });
}

}  // namespace conclave::cuda
