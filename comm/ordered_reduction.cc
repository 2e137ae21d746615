#include "comm/ordered_reduction.h"

#include <algorithm>
#include <array>
#include <type_traits>

#include "comm/base/error.h"

namespace conclave {
namespace {

// One block of partial results stays in the first-level cache while the sources stream past it.
constexpr std::int64_t kBlockElements = 1024;
// Below this, waking threads costs more than the sums.
constexpr std::int64_t kParallelElements = 64 * 1024;

template <class T>
using Accumulator = std::conditional_t<sizeof(T) == 2, float, T>;  // bfloat16 and float16 add up in float

struct Sum {
  template <class A>
  static A apply(A a, A b) {
    return static_cast<A>(a + b);
  }
};
struct Max {
  template <class A>
  static A apply(A a, A b) {
    return b > a || b != b ? b : a;  // b != b: NaN
  }
};
struct Min {
  template <class A>
  static A apply(A a, A b) {
    return b < a || b != b ? b : a;
  }
};

template <class T, class Op>
void reduce_block(std::span<const void* const> sources, T* result, std::int64_t begin, std::int64_t count) {
  using A = Accumulator<T>;
  std::array<A, kBlockElements> partial;
  const T* first = static_cast<const T*>(sources[0]) + begin;
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) partial[static_cast<std::size_t>(i)] = static_cast<A>(first[i]);
  for (const void* source : sources.subspan(1)) {
    const T* values = static_cast<const T*>(source) + begin;
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) {
      A& element = partial[static_cast<std::size_t>(i)];
      element = Op::apply(element, static_cast<A>(values[i]));
    }
  }
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) {
    result[begin + i] = static_cast<T>(partial[static_cast<std::size_t>(i)]);
  }
}

template <class T, class Op>
void reduce_all(std::span<const void* const> sources, void* result, std::int64_t count) {
#pragma omp parallel for schedule(static) if (count >= kParallelElements)
  for (std::int64_t begin = 0; begin < count; begin += kBlockElements) {
    reduce_block<T, Op>(sources, static_cast<T*>(result), begin, std::min(kBlockElements, count - begin));
  }
}

template <class T>
void reduce_typed(std::span<const void* const> sources, void* result, std::int64_t count, ReduceOp op) {
  switch (op) {
    case ReduceOp::kSum:
      return reduce_all<T, Sum>(sources, result, count);
    case ReduceOp::kMax:
      return reduce_all<T, Max>(sources, result, count);
    case ReduceOp::kMin:
      return reduce_all<T, Min>(sources, result, count);
  }
}

}  // namespace

void reduce_in_order(std::span<const void* const> sources, void* result, std::int64_t count, DType dtype,
                     ReduceOp op) {
  CONCLAVE_CHECK(!sources.empty(), "a reduction of nothing");
  switch (dtype) {
    case DType::kFloat32:
      return reduce_typed<float>(sources, result, count, op);
    case DType::kBFloat16:
      return reduce_typed<bfloat16>(sources, result, count, op);
    case DType::kFloat16:
      return reduce_typed<float16>(sources, result, count, op);
    case DType::kFloat64:
      return reduce_typed<double>(sources, result, count, op);
    case DType::kInt32:
      return reduce_typed<std::int32_t>(sources, result, count, op);
    case DType::kInt64:
      return reduce_typed<std::int64_t>(sources, result, count, op);
    case DType::kUInt8:
      return reduce_typed<std::uint8_t>(sources, result, count, op);
  }
}

}  // namespace conclave
