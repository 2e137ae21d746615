// Tiles of the rows of groups by the columns of their results, numbered without gaps over all groups: how
// blocks that know the rows of no group until they run share them out.
#pragma once

#include <cstdint>

#include "layers/cuda/elements.cuh"

namespace conclave::cuda {

// Row tiles whose neighbours in number stand in one column of tiles: they read the same weights at about the
// same time, and all columns come by before the rows have left the GPU's L2 cache.
inline constexpr std::int64_t kRowTilesOfBand = 8;

struct RowTile {
  std::int64_t group = 0;
  std::int64_t first_row = 0;  // of all rows
  int rows = 0;                // the last tile of a group may have fewer than the others
  std::int64_t column_tile = 0;
};

// One warp's walk through the tiles. Group by group; a group's go band by band, column by column of tiles and
// row tile by row tile.
template <int kRows>
class RowTiles {
 public:
  __device__ RowTiles(const std::int64_t* offsets, std::int64_t groups, std::int64_t column_tiles)
      : offsets_(offsets), groups_(groups), column_tiles_(column_tiles) {}

  // The tile `number`, which never falls from one call to the next; false beyond the last. All lanes take
  // part and get the same.
  __device__ bool find(std::int64_t number, RowTile& tile) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    while (first_group_ < groups_) {
      const std::int64_t group = first_group_ + lane;  // a lane each
      const std::int64_t begin = group < groups_ ? offsets_[group] : 0;
      const std::int64_t end = group < groups_ ? offsets_[group + 1] : 0;
      const std::int64_t tiles = (end - begin + kRows - 1) / kRows * column_tiles_;
      const std::int64_t tiles_until = tiles_before_ + sum_until_lane(tiles, lane);
      const unsigned beyond = __ballot_sync(kAllLanes, number < tiles_until);
      if (beyond != 0) {
        const int found = __ffs(beyond) - 1;
        tile = tile_of(__shfl_sync(kAllLanes, begin, found), __shfl_sync(kAllLanes, end, found),
                       number - __shfl_sync(kAllLanes, tiles_until - tiles, found));
        tile.group = first_group_ + found;
        return true;
      }
      tiles_before_ = __shfl_sync(kAllLanes, tiles_until, kWarp - 1);
      first_group_ += kWarp;
    }
    return false;
  }

 private:
  __device__ static std::int64_t sum_until_lane(std::int64_t value, int lane) {
    for (int distance = 1; distance < kWarp; distance *= 2) {
      const std::int64_t before = __shfl_up_sync(kAllLanes, value, static_cast<unsigned>(distance));
      if (lane >= distance) value += before;
    }
    return value;
  }

  // Tile `number` of the group whose rows are [begin, end).
  __device__ RowTile tile_of(std::int64_t begin, std::int64_t end, std::int64_t number) const {
    const std::int64_t band = number / (kRowTilesOfBand * column_tiles_);
    const std::int64_t in_band = number % (kRowTilesOfBand * column_tiles_);
    const std::int64_t first_tile = band * kRowTilesOfBand;
    const std::int64_t tiles_left = (end - begin + kRows - 1) / kRows - first_tile;
    const std::int64_t tiles_of_band = tiles_left < kRowTilesOfBand ? tiles_left : kRowTilesOfBand;
    RowTile tile;
    tile.first_row = begin + (first_tile + in_band % tiles_of_band) * kRows;
    tile.rows = static_cast<int>(end - tile.first_row < kRows ? end - tile.first_row : kRows);
    tile.column_tile = in_band / tiles_of_band;
    return tile;
  }

  const std::int64_t* offsets_;
  std::int64_t groups_;
  std::int64_t column_tiles_;
  // Of the kWarp groups that are looked at: the first, and the tiles of all groups before it.
  std::int64_t first_group_ = 0;
  std::int64_t tiles_before_ = 0;
};

// More than there are in any partition of the rows, or as many. On the host.
inline std::int64_t most_row_tiles(std::int64_t rows, std::int64_t groups, std::int64_t rows_of_tile) {
  const std::int64_t begun = groups < rows ? groups : rows;  // a tile each that isn't full
  return rows / rows_of_tile + begun;
}

}  // namespace conclave::cuda
