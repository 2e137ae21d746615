// Grouped products of bf16: by warpgroups, or else by mma.sync, which every GPU of compute capability 8.0 and
// later has.
#include "layers/ops/grouped_gemm/tensor_core_products.cuh"
#include "layers/ops/grouped_gemm/warpgroup_products.cuh"

namespace conclave::cuda {
namespace {

// Eight warps, two by four, each with half of the tile's rows and 32 of its columns. `add` returns when all
// is read.
template <int kTileRows_, int kStages_, int kBlocks_>
class MmaCore {
 public:
  static constexpr int kTileRows = kTileRows_;
  static constexpr int kTileColumns = 128;
  static constexpr int kThreads = 8 * kWarp;
  static constexpr int kBlocks = kBlocks_;
  static constexpr int kStages = kStages_;
  static constexpr int kStepsUnderWay = 0;

  __device__ MmaCore(int rows, int columns)
      : first_row_(warp() / kWarpsOfRow * kRowsOfWarp),
        first_column_(warp() % kWarpsOfRow * kColumnsOfWarp),
        has_work_(first_row_ < rows && first_column_ < columns) {}

  template <int kUnderWay>
  __device__ static void wait_for_tiles() {
    wait_for_copies<kUnderWay>();
  }

  template <bool kLeftAcross, bool kRightAcross>
  __device__ void add(const Bf16* left, const Bf16* right) {
    if (!has_work_) return;
#pragma unroll
    for (int k = 0; k < kInner; k += 16) {
      unsigned a[kRowFragments][4];
      unsigned b[kColumnFragments / 2][4];  // of two fragments each
#pragma unroll
      for (int i = 0; i < kRowFragments; ++i) load_left<kLeftAcross>(a[i], left, first_row_ + i * 16, k);
#pragma unroll
      for (int j = 0; j < kColumnFragments / 2; ++j)
        load_right<kRightAcross>(b[j], right, first_column_ + j * 16, k);
#pragma unroll
      for (int i = 0; i < kRowFragments; ++i) {
#pragma unroll
        for (int j = 0; j < kColumnFragments; ++j) {
          const unsigned of_column[2] = {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]};
          mma_m16n8k16(sums_[i][j], a[i], of_column);
        }
      }
    }
  }

  __device__ void finish() {}

  __device__ void store_sums(float* tile, int stride) const {
    if (!has_work_) return;
#pragma unroll
    for (int i = 0; i < kRowFragments; ++i) {
#pragma unroll
      for (int j = 0; j < kColumnFragments; ++j) {
        float* to =
            tile + (first_row_ + i * 16 + lane() / 4) * stride + first_column_ + j * 8 + lane() % 4 * 2;
        *reinterpret_cast<float2*>(to) = float2{sums_[i][j][0], sums_[i][j][1]};
        *reinterpret_cast<float2*>(to + 8 * stride) = float2{sums_[i][j][2], sums_[i][j][3]};
      }
    }
  }

 private:
  static constexpr int kWarpsOfRow = 4;
  static constexpr int kRowsOfWarp = kTileRows / 2;
  static constexpr int kColumnsOfWarp = kTileColumns / kWarpsOfRow;
  static constexpr int kRowFragments = kRowsOfWarp / 16;
  static constexpr int kColumnFragments = kColumnsOfWarp / 8;

  __device__ static int warp() { return static_cast<int>(threadIdx.x) / kWarp; }
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % kWarp; }

  // Rows [row, row + 16) and inner elements [k, k + 16) of the left factor, as mma_m16n8k16 takes them: the
  // matrices of ldmatrix are rows + 0, rows + 8, and the same with inner elements + 8.
  template <bool kAcross>
  __device__ static void load_left(unsigned (&a)[4], const Bf16* tile, int row, int k) {
    using Tile = typename Factor<kAcross, kTileRows>::Tile;
    if constexpr (kAcross) {
      load_transposed_matrices(
          a, tile + Tile::place(k + lane() / 16 * 8 + lane() % 8, row / kChunk + lane() / 8 % 2));
    } else {
      load_matrices(a, tile + Tile::place(row + lane() % 16, k / kChunk + lane() / 16));
    }
  }

  // Columns [column, column + 16) of the right factor: inner elements + 0 and + 8 of the first eight columns,
  // then of the others.
  template <bool kAcross>
  __device__ static void load_right(unsigned (&b)[4], const Bf16* tile, int column, int k) {
    using Tile = typename Factor<kAcross, kTileColumns>::Tile;
    if constexpr (kAcross) {
      load_transposed_matrices(
          b, tile + Tile::place(k + lane() / 8 % 2 * 8 + lane() % 8, column / kChunk + lane() / 16));
    } else {
      load_matrices(b,
                    tile + Tile::place(column + lane() / 16 * 8 + lane() % 8, k / kChunk + lane() / 8 % 2));
    }
  }

  int first_row_;
  int first_column_;
  bool has_work_;  // some of the warp's part exists
  float sums_[kRowFragments][kColumnFragments][4] = {};
};

// What shared memory of 164 KiB has room for, as an A100's multiprocessor has it; and of 100 KiB, as those of
// compute capability 8.6, 8.9 and 12.0 have it.
using LargeTiles = MmaCore<128, 4, 1>;
using LargeTilesOfLess = MmaCore<128, 3, 1>;
using SmallTiles = MmaCore<32, 4, 2>;

// Calls function<LargeTiles>(), or the other of them.
template <class Function>
void with_large_tiles(Function function) {
  if (most_shared_bytes("grouped gemm") >= kSharedBytes<LargeTiles>) {
    function.template operator()<LargeTiles>();
  } else {
    function.template operator()<LargeTilesOfLess>();
  }
}

}  // namespace

void multiply_rows(StreamHandle stream, const RowsProduct<Bf16>& product) {
  if (has_warpgroup_products()) {
    multiply_rows_by_warpgroups(stream, product);
  } else if (has_few_rows(product.rows, product.groups)) {
    launch_multiply_rows<SmallTiles>(stream, product);
  } else {
    with_large_tiles([&]<class Tiles>() { launch_multiply_rows<Tiles>(stream, product); });
  }
}

void sum_outer_products(StreamHandle stream, const OuterProducts<Bf16>& product) {
  if (has_warpgroup_products()) {
    sum_outer_products_by_warpgroups(stream, product);
  } else {
    with_large_tiles([&]<class Tiles>() { launch_sum_outer_products<Tiles>(stream, product); });
  }
}

}  // namespace conclave::cuda
