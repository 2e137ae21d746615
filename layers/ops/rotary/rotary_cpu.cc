#include "layers/ops/rotary/rotary.h"

namespace conclave::cpu {

void rotary(const RotaryArgs& args, float direction) {
  const std::int64_t tokens = args.x.extent(0);
  const std::int64_t heads = args.x.extent(1);
  const std::int64_t half = args.x.extent(2) / 2;
  const float* cosines = args.table->cosines().data<float>();
  const float* sines = args.table->sines().data<float>();
  float* x = args.x.data<float>();
#pragma omp parallel for schedule(static)
  for (std::int64_t t = 0; t < tokens; ++t) {
    const std::int64_t position = args.first_position + t % args.sequence_length;
    const float* cosine = cosines + position * half;
    const float* sine = sines + position * half;
    for (std::int64_t head = 0; head < heads; ++head) {
      float* first = x + (t * heads + head) * 2 * half;
      float* second = first + half;
#pragma omp simd
      for (std::int64_t i = 0; i < half; ++i) {
        const float a = first[i];
        const float b = second[i];
        const float signed_sine = direction * sine[i];
        first[i] = a * cosine[i] - b * signed_sine;
        second[i] = b * cosine[i] + a * signed_sine;
      }
    }
  }
}

}  // namespace conclave::cpu
