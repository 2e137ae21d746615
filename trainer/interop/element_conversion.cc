#include "trainer/interop/element_conversion.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "comm/base/error.h"

namespace conclave {
namespace {

template <class T>
void read_as(std::span<const std::byte> bytes, std::span<float> out) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    T element;
    std::memcpy(&element, bytes.data() + i * sizeof(T), sizeof(T));
    out[i] = static_cast<float>(element);
  }
}

template <class T>
void write_as(std::span<const float> values, std::span<std::byte> out) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    const T element(values[i]);
    std::memcpy(out.data() + i * sizeof(T), &element, sizeof(T));
  }
}

[[noreturn]] void refuse(DType dtype) {
  throw Error(fmt::format("elements of type {} are no weights; F32, BF16 and F16 are", name_of(dtype)));
}

}  // namespace

bool is_floating_point(DType dtype) {
  return dtype == DType::kFloat32 || dtype == DType::kBFloat16 || dtype == DType::kFloat16;
}

void to_float(std::span<const std::byte> bytes, DType dtype, std::span<float> out) {
  CONCLAVE_CHECK_EQ(bytes.size(), out.size() * size_of(dtype), "bytes of the elements to convert");
  switch (dtype) {
    case DType::kFloat32:
      if (!out.empty()) std::memcpy(out.data(), bytes.data(), bytes.size());
      return;
    case DType::kBFloat16:
      return read_as<bfloat16>(bytes, out);
    case DType::kFloat16:
      return read_as<float16>(bytes, out);
    default:
      refuse(dtype);
  }
}

void from_float(std::span<const float> values, DType dtype, std::span<std::byte> out) {
  CONCLAVE_CHECK_EQ(out.size(), values.size() * size_of(dtype), "bytes for the converted elements");
  switch (dtype) {
    case DType::kFloat32:
      if (!values.empty()) std::memcpy(out.data(), values.data(), out.size());
      return;
    case DType::kBFloat16:
      return write_as<bfloat16>(values, out);
    case DType::kFloat16:
      return write_as<float16>(values, out);
    default:
      refuse(dtype);
  }
}

// A block without one is passed in one vectorised sweep: x - x is 0 for finite x, else NaN.
std::optional<std::size_t> first_not_finite(std::span<const float> values) {
  constexpr std::size_t kBlock = 4096;
  for (std::size_t begin = 0; begin < values.size(); begin += kBlock) {
    const std::span<const float> block = values.subspan(begin, std::min(kBlock, values.size() - begin));
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::size_t i = 0; i < block.size(); ++i) sum += block[i] - block[i];
    if (sum == 0) continue;
    for (std::size_t i = 0; i < block.size(); ++i) {
      if (!std::isfinite(block[i])) return begin + i;
    }
  }
  return std::nullopt;
}

}  // namespace conclave
