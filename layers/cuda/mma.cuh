// Tensor cores and what feeds them, as one warp uses them: bf16 factors, fp32 sums. From compute capability
// 8.0 on. Layouts of fragments are those of the PTX ISA ("Matrix fragments for mma.m16n8k16"); with g =
// lane / 4 and t = lane % 4:
//
//   a [16, 16]  a[0]: row g, columns 2t and 2t + 1; a[1]: row g + 8; a[2], a[3]: the same rows, columns + 8
//   b [16, 8]   b[0]: rows 2t and 2t + 1 of column g; b[1]: rows + 8
//   d [16, 8]   d[0], d[1]: row g, columns 2t and 2t + 1; d[2], d[3]: row g + 8
//
// A register of a or b holds two neighbours, the lower one in the low half.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

namespace conclave::cuda {

// d += a b, by all lanes of a warp.
__device__ inline void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The address of shared memory as instructions take it.
__device__ inline unsigned shared_address(const void* shared) {
  return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}

// Four 8 x 8 matrices of 16-bit elements, by all lanes of a warp: lanes 8i to 8i + 7 name the rows of matrix
// i, 16 aligned bytes of shared memory each. Lane l gets in r[i] the elements 2 (l % 4) and 2 (l % 4) + 1 of
// row l / 4 of matrix i.
__device__ inline void load_matrices(unsigned (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
// The same of the transposed matrices: the elements l / 4 of rows 2 (l % 4) and 2 (l % 4) + 1.
__device__ inline void load_transposed_matrices(unsigned (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// Two floats as neighbours in bf16, rounded to nearest, ties to even.
__device__ inline unsigned pack_bf16(float low, float high) {
  unsigned packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

// 2^x to 2^-22 of it; results below the smallest normal number become 0.
__device__ inline float power_of_two(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}

// 16 bytes from global to shared memory, both aligned, beside what the thread does next: the first `bytes` (0
// to 16) are read, the others become zero. They are there once the thread has waited for their group, and
// for other threads after a barrier.
__device__ inline void copy_async_16(void* shared, const void* global, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(bytes)
               : "memory");
}
// What the thread has copied since the last call is a group.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits for all groups of the thread but the last `kUnderWay`.
template <int kUnderWay>
__device__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kUnderWay) : "memory");
}

}  // namespace conclave::cuda
