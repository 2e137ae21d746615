#include "trainer/interop/element_conversion.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

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

#if defined(__SSE2__)

// Sixteen elements: a cache line of fp32, written as a whole.
void stream_line(const std::byte* from, float* to, float) {
  for (int i = 0; i < 4; ++i)
    _mm_stream_si128(reinterpret_cast<__m128i*>(to) + i,
                     _mm_loadu_si128(reinterpret_cast<const __m128i*>(from) + i));
}
void stream_line(const std::byte* from, float* to, bfloat16) {
  const __m128i zero = _mm_setzero_si128();
  for (int i = 0; i < 2; ++i) {
    const __m128i eight = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from) + i);
    auto* target = reinterpret_cast<__m128i*>(to) + 2 * i;
    _mm_stream_si128(target, _mm_unpacklo_epi16(zero, eight));  // the upper half of each fp32
    _mm_stream_si128(target + 1, _mm_unpackhi_epi16(zero, eight));
  }
}

// Many elements go past the caches: weights are read again long after, and a store into a line that isn't in
// the cache would first fetch it.
template <class T>
void read_past_caches(std::span<const std::byte> bytes, std::span<float> out) {
  constexpr std::size_t kLine = 64 / sizeof(float);
  constexpr std::size_t kFewElements = 4096;
  if (out.size() < kFewElements) return read_as<T>(bytes, out);
  const std::size_t before = (64 - reinterpret_cast<std::uintptr_t>(out.data()) % 64) % 64 / sizeof(float);
  const std::size_t behind = before + (out.size() - before) / kLine * kLine;
  read_as<T>(bytes, out.first(before));
  for (std::size_t i = before; i < behind; i += kLine)
    stream_line(bytes.data() + i * sizeof(T), out.data() + i, T{});
  _mm_sfence();
  read_as<T>(bytes.subspan(behind * sizeof(T)), out.subspan(behind));
}

#else  // other processors have ordinary stores

template <class T>
void read_past_caches(std::span<const std::byte> bytes, std::span<float> out) {
  read_as<T>(bytes, out);
}

#endif

// The index of the first element all of whose bits in `exponent` are set: infinities and NaN. A block without
// one is passed in one vectorised sweep.
template <class Bits>
std::optional<std::size_t> first_with_all(std::span<const std::byte> bytes, Bits exponent) {
  constexpr std::size_t kBlock = 4096;
  const auto bits_at = [&](std::size_t i) {
    Bits bits;
    std::memcpy(&bits, bytes.data() + i * sizeof(Bits), sizeof(Bits));
    return static_cast<Bits>(bits & exponent);
  };
  const std::size_t elements = bytes.size() / sizeof(Bits);
  for (std::size_t begin = 0; begin < elements; begin += kBlock) {
    const std::size_t end = std::min(begin + kBlock, elements);
    Bits found = 0;
    for (std::size_t i = begin; i < end; ++i) found |= static_cast<Bits>(bits_at(i) == exponent);
    if (found == 0) continue;
    for (std::size_t i = begin; i < end; ++i) {
      if (bits_at(i) == exponent) return i;
    }
  }
  return std::nullopt;
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
      return read_past_caches<float>(bytes, out);
    case DType::kBFloat16:
      return read_past_caches<bfloat16>(bytes, out);
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

std::optional<std::size_t> first_not_finite(std::span<const std::byte> bytes, DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return first_with_all<std::uint32_t>(bytes, 0x7f800000U);
    case DType::kBFloat16:
      return first_with_all<std::uint16_t>(bytes, 0x7f80U);
    case DType::kFloat16:
      return first_with_all<std::uint16_t>(bytes, 0x7c00U);
    default:
      refuse(dtype);
  }
}

}  // namespace conclave
