// Neighbouring elements read and written at once, up to 16 bytes with one access. Kernels take their number
// as a template parameter, which is 1 where widths or addresses don't allow more.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>
#include "layers/cuda/elements.cuh"

namespace conclave::cuda {

template <class Element, int kCount>
struct Access {
  static constexpr int kElements = kCount * sizeof(Element) > 16 ? 16 / sizeof(Element) : kCount;
  struct alignas(sizeof(Element) * kElements) Piece {
    Element elements[kElements];
  };
};

template <int kCount, class Element>
__device__ void load(float (&values)[kCount], const Element* from) {
  using Of = Access<Element, kCount>;
#pragma unroll
  for (int i = 0; i < kCount; i += Of::kElements) {
    const auto piece = *reinterpret_cast<const typename Of::Piece*>(from + i);
#pragma unroll
    for (int j = 0; j < Of::kElements; ++j) values[i + j] = to_float(piece.elements[j]);
  }
}

template <int kCount, class Element>
__device__ void store(Element* to, const float (&values)[kCount]) {
  using Of = Access<Element, kCount>;
#pragma unroll
  for (int i = 0; i < kCount; i += Of::kElements) {
    typename Of::Piece piece;
#pragma unroll
    for (int j = 0; j < Of::kElements; ++j) set(piece.elements[j], values[i + j]);
    *reinterpret_cast<typename Of::Piece*>(to + i) = piece;
  }
}

// On the host: calls function(the number), which is kCount if `width` is a multiple of it and all pointers
// are aligned to 16 bytes.
template <int kNumber>
struct Count {
  static constexpr int value = kNumber;
};
template <int kCount, class Function, class... Pointers>
void with_vectors(std::int64_t width, Function function, const Pointers*... pointers) {
  const bool are_aligned = ((reinterpret_cast<std::uintptr_t>(pointers) % 16 == 0) && ...);
  if (are_aligned && width % kCount == 0) {
    function(Count<kCount>());
  } else {
    function(Count<1>());
  }
}

// As many as 16 bytes hold.
template <class Element>
inline constexpr int kElementsOfAccess = 16 / sizeof(Element);

}  // namespace conclave::cuda
