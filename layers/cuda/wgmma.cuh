// Products by warpgroups, four warps in a row: bf16 factors from shared memory, fp32 sums, asynchronous. Of
// compute capability 9.0a alone. Named sections are those of the PTX ISA, version 9.0.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>
#include "layers/cuda/matrix_descriptor.cuh"

namespace conclave::cuda {

// What this thread has written to shared memory, copies that it has waited for included, is there for
// products that begin after a barrier ("Async Proxy", 9.7.15.4).
__device__ inline void publish_to_products() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Before the first product, and whenever the warpgroup's threads have touched the sums themselves.
__device__ inline void hand_sums_to_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
// What the warpgroup has begun since the last call is a group.
__device__ inline void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits for all groups of the warpgroup but the last `kUnderWay`.
template <int kUnderWay>
__device__ void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kUnderWay) : "memory");
}

// d += left right, begun by all threads of a warpgroup: left [64, 16], right [16, columns]. Thread t of the
// warpgroup has of the eight columns j ("Register Fragments", 9.7.15.5.1.1): d[j][0] and d[j][1] in row t /
// 32 * 16 + t % 32 / 4, columns 8j + t % 4 * 2 and the next; d[j][2] and d[j][3] eight rows below.
#define CONCLAVE_EIGHT_COLUMNS(d, j) "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])

template <bool kLeftAcross, bool kRightAcross>
__device__ void begin_product(float (&d)[16][4], std::uint64_t left, std::uint64_t right) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "%64, %65, 1, 1, 1, %66, %67;"
      : CONCLAVE_EIGHT_COLUMNS(d, 0), CONCLAVE_EIGHT_COLUMNS(d, 1), CONCLAVE_EIGHT_COLUMNS(d, 2),
        CONCLAVE_EIGHT_COLUMNS(d, 3), CONCLAVE_EIGHT_COLUMNS(d, 4), CONCLAVE_EIGHT_COLUMNS(d, 5),
        CONCLAVE_EIGHT_COLUMNS(d, 6), CONCLAVE_EIGHT_COLUMNS(d, 7), CONCLAVE_EIGHT_COLUMNS(d, 8),
        CONCLAVE_EIGHT_COLUMNS(d, 9), CONCLAVE_EIGHT_COLUMNS(d, 10), CONCLAVE_EIGHT_COLUMNS(d, 11),
        CONCLAVE_EIGHT_COLUMNS(d, 12), CONCLAVE_EIGHT_COLUMNS(d, 13), CONCLAVE_EIGHT_COLUMNS(d, 14),
        CONCLAVE_EIGHT_COLUMNS(d, 15)
      : "l"(left), "l"(right), "n"(kLeftAcross ? 1 : 0), "n"(kRightAcross ? 1 : 0)
      : "memory");
}

template <bool kLeftAcross, bool kRightAcross>
__device__ void begin_product(float (&d)[32][4], std::uint64_t left, std::uint64_t right) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
      "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
      "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
      "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
      "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "
      "%128, %129, 1, 1, 1, %130, %131;"
      : CONCLAVE_EIGHT_COLUMNS(d, 0), CONCLAVE_EIGHT_COLUMNS(d, 1), CONCLAVE_EIGHT_COLUMNS(d, 2),
        CONCLAVE_EIGHT_COLUMNS(d, 3), CONCLAVE_EIGHT_COLUMNS(d, 4), CONCLAVE_EIGHT_COLUMNS(d, 5),
        CONCLAVE_EIGHT_COLUMNS(d, 6), CONCLAVE_EIGHT_COLUMNS(d, 7), CONCLAVE_EIGHT_COLUMNS(d, 8),
        CONCLAVE_EIGHT_COLUMNS(d, 9), CONCLAVE_EIGHT_COLUMNS(d, 10), CONCLAVE_EIGHT_COLUMNS(d, 11),
        CONCLAVE_EIGHT_COLUMNS(d, 12), CONCLAVE_EIGHT_COLUMNS(d, 13), CONCLAVE_EIGHT_COLUMNS(d, 14),
        CONCLAVE_EIGHT_COLUMNS(d, 15), CONCLAVE_EIGHT_COLUMNS(d, 16), CONCLAVE_EIGHT_COLUMNS(d, 17),
        CONCLAVE_EIGHT_COLUMNS(d, 18), CONCLAVE_EIGHT_COLUMNS(d, 19), CONCLAVE_EIGHT_COLUMNS(d, 20),
        CONCLAVE_EIGHT_COLUMNS(d, 21), CONCLAVE_EIGHT_COLUMNS(d, 22), CONCLAVE_EIGHT_COLUMNS(d, 23),
        CONCLAVE_EIGHT_COLUMNS(d, 24), CONCLAVE_EIGHT_COLUMNS(d, 25), CONCLAVE_EIGHT_COLUMNS(d, 26),
        CONCLAVE_EIGHT_COLUMNS(d, 27), CONCLAVE_EIGHT_COLUMNS(d, 28), CONCLAVE_EIGHT_COLUMNS(d, 29),
        CONCLAVE_EIGHT_COLUMNS(d, 30), CONCLAVE_EIGHT_COLUMNS(d, 31)
      : "l"(left), "l"(right), "n"(kLeftAcross ? 1 : 0), "n"(kRightAcross ? 1 : 0)
      : "memory");
}

#undef CONCLAVE_EIGHT_COLUMNS

}  // namespace conclave::cuda
