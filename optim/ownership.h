// Who updates what. Without sharding every rank updates all that it holds. With optim.zero: 1 the ranks that
// hold the same values deal their rows among themselves: each keeps the optimizer's state of its rows alone,
// and the others take the new values from it (Rajbhandari et al., "ZeRO: memory optimizations toward training
// trillion parameter models", 2020, stage 1).
//
// A local parameter is seen as a matrix [M, N], N its last extent: experts [E, F, D] as [E F, D], a norm's
// gains [D] as [1, D]. Rows are dealt in blocks of about kBlockElements elements that end where an expert
// ends. The blocks are the same whether state is sharded or not, and so is every sum that is taken block by
// block.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/process_grid.h"
#include "layers/cuda/engine.h"
#include "layers/parameter.h"

namespace conclave {

// One parameter and its rows.
struct OwnedParameter {
  Parameter* parameter = nullptr;
  Communicator* replicas = nullptr;  // the ranks that hold the same values
  std::int64_t columns = 0;          // N
  std::int64_t unit_rows = 0;        // of one expert; all rows of a replicated parameter
  std::int64_t block_rows = 1;       // of a block; the last one of a unit may have fewer
  std::vector<Range> rows_of_rank;   // [replicas->size()], rows of the local matrix that each updates
  Range mine;                        // those of this rank
  std::vector<Range> trained;  // those of `mine` that are: all but frozen units' (Parameter::freeze_rows)

  std::int64_t blocks_of_unit() const { return (unit_rows + block_rows - 1) / block_rows; }
  // Units on this rank: its experts; 1 for a replicated parameter.
  std::int64_t units() const;
  // Block `block` of unit `unit`, as rows of the local matrix.
  Range block(std::int64_t unit, std::int64_t block) const;
  // The row of the global matrix that row 0 of the local one is.
  std::int64_t first_global_row() const;
  // True if the unit (an expert, by its place on this rank; 0 of a replicated parameter) is trained.
  bool is_trained(std::int64_t unit) const;
  // The elements of rows of a tensor of the parameter's local shape.
  std::span<float> elements(TensorView tensor, Range rows) const;
  std::span<const float> elements(ConstTensorView tensor, Range rows) const;
};

class Ownership {
 public:
  // `parameters` in the same order on every rank, frozen as far as they are to be. They, and the grid, must
  // outlive the object.
  // `gpu`, which must outlive it too, is where the parameters lie; null: on the host.
  Ownership(const std::vector<Parameter*>& parameters, const ProcessGrid& grid, bool sharded,
            cuda::Engine* gpu = nullptr);

  const std::vector<OwnedParameter>& parameters() const { return parameters_; }
  bool sharded() const { return sharded_; }
  const ProcessGrid& grid() const { return *grid_; }
  cuda::Engine* gpu() const { return gpu_; }
  // Gradients that nobody has touched since zero_gradient() become zeros in memory.
  void write_due_zeros() const;
  // Before the host reads or writes values or gradients.
  void synchronize() const;
  // Memory beside the parameters, its elements as collectives take them, and copies there: at once on the
  // host, in their turn on a GPU.
  Buffer make_buffer(std::int64_t elements) const;
  BufferView view(std::span<float> elements) const;
  void copy(std::span<const float> from, std::span<float> to) const;

  static constexpr std::int64_t kBlockElements = 4096;

 private:
  std::vector<OwnedParameter> parameters_;
  bool sharded_;
  const ProcessGrid* grid_;
  cuda::Engine* gpu_;
};

// A piece of each rank's rows, of one or several parameters, that travels at once.
struct OwnerBucket {
  struct Item {
    const OwnedParameter* owned;
    std::vector<Range> rows_of_rank;  // [ranks of the group]
  };
  Communicator* group = nullptr;
  std::vector<Item> items;
  std::vector<std::int64_t> elements_of_rank;  // [ranks of the group], over all items

  // Calls visit(item, rows) for the rows of `rank`.
  template <class Visit>
  void for_each(int rank, Visit visit) const {
    for (const Item& item : items) visit(*item.owned, item.rows_of_rank[static_cast<std::size_t>(rank)]);
  }
};

// All rows of all parameters in buckets of a bounded size, in an order that is the same on every rank. Empty
// for groups of one and without sharding.
std::vector<OwnerBucket> make_owner_buckets(const Ownership& ownership);

}  // namespace conclave
