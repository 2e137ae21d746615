// Grouped products of bf16 by warpgroups: for GPUs of compute capability 9.0, compiled for 9.0a.
#include "layers/cuda/wgmma.cuh"
#include "layers/ops/grouped_gemm/tensor_core_products.cuh"
#include "layers/ops/grouped_gemm/warpgroup_products.cuh"

namespace conclave::cuda {
namespace {

// Two warpgroups: one above the other with 64 rows each, or, in tiles of 64 rows, side by side. While their
// products of one step are under way, the threads see to the copies of later ones.
template <int kTileRows_, int kStages_>
class WarpgroupCore {
 public:
  static constexpr int kTileRows = kTileRows_;
  static constexpr int kTileColumns = 256;
  static constexpr int kThreads = 8 * kWarp;
  static constexpr int kBlocks = 1;
  static constexpr int kStages = kStages_;
  static constexpr int kStepsUnderWay = 1;

  __device__ WarpgroupCore(int, int) {}

  template <int kUnderWay>
  __device__ static void wait_for_tiles() {
    wait_for_copies<kUnderWay>();
    publish_to_products();
  }

  template <bool kLeftAcross, bool kRightAcross>
  __device__ void add(const Bf16* left, const Bf16* right) {
    hand_sums_to_products();
#pragma unroll
    for (int k = 0; k < kInner; k += 16) {
      begin_product<kLeftAcross, kRightAcross>(
          sums_, descriptor<Factor<kLeftAcross, kTileRows>, kLeftAcross>(left, first_row(), k),
          descriptor<Factor<kRightAcross, kTileColumns>, kRightAcross>(right, first_column(), k));
    }
    commit_products();
    wait_for_products<kStepsUnderWay>();
  }

  __device__ void finish() { wait_for_products<0>(); }

  __device__ void store_sums(float* tile, int stride) const {
    const int thread = static_cast<int>(threadIdx.x) % kThreadsOfWarpgroup;
    float* first = tile + (first_row() + thread / kWarp * 16 + thread % kWarp / 4) * stride + first_column() +
                   thread % 4 * 2;
#pragma unroll
    for (int j = 0; j < kColumnsOfWarpgroup / 8; ++j) {
      *reinterpret_cast<float2*>(first + j * 8) = float2{sums_[j][0], sums_[j][1]};
      *reinterpret_cast<float2*>(first + 8 * stride + j * 8) = float2{sums_[j][2], sums_[j][3]};
    }
  }

 private:
  static constexpr int kThreadsOfWarpgroup = 4 * kWarp;
  static constexpr int kRowsOfWarpgroup = 64;
  static constexpr bool kSideBySide = kTileRows == kRowsOfWarpgroup;
  static constexpr int kColumnsOfWarpgroup = kSideBySide ? kTileColumns / 2 : kTileColumns;
  static_assert(kSideBySide || kTileRows == 2 * kRowsOfWarpgroup);

  __device__ static int warpgroup() { return static_cast<int>(threadIdx.x) / kThreadsOfWarpgroup; }
  __device__ static int first_row() { return kSideBySide ? 0 : warpgroup() * kRowsOfWarpgroup; }
  __device__ static int first_column() { return kSideBySide ? warpgroup() * kColumnsOfWarpgroup : 0; }

  // Of the factor's vectors from `vector` on, inner elements [k, k + 16).
  template <class FactorType, bool kAcross>
  __device__ static std::uint64_t descriptor(const Bf16* tile, int vector, int k) {
    using Tile = typename FactorType::Tile;
    constexpr unsigned kRowBytes = kPanel * sizeof(Bf16);
    const int first = kAcross ? vector / kPanel * (Tile::kRows * kPanel) + k * kPanel : vector * kPanel + k;
    return matrix_descriptor(tile + first, kAcross ? Tile::kRows * kRowBytes : 16, 8 * kRowBytes);
  }

  float sums_[kColumnsOfWarpgroup / 8][4] = {};
};

// What shared memory of 227 KiB has room for.
using LargeTiles = WarpgroupCore<128, 4>;
using SmallTiles = WarpgroupCore<64, 5>;

}  // namespace

bool has_warpgroup_products() {
  int device = 0;
  int major = 0;
  check_launch("grouped gemm", cudaGetDevice(&device));
  check_launch("grouped gemm", cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  return major == 9;
}

void multiply_rows_by_warpgroups(StreamHandle stream, const RowsProduct<Bf16>& product) {
  if (has_few_rows(product.rows, product.groups)) {
    launch_multiply_rows<SmallTiles>(stream, product);
  } else {
    launch_multiply_rows<LargeTiles>(stream, product);
  }
}

void sum_outer_products_by_warpgroups(StreamHandle stream, const OuterProducts<Bf16>& product) {
  launch_sum_outer_products<LargeTiles>(stream, product);
}

}  // namespace conclave::cuda
