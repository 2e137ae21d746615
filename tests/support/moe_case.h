// One MoE layer with its data: the product's experiment and the reference's tensors that
// describe the same thing.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "configs/run.pb.h"
#include "layers/moe/moe_layer.h"
#include "tests/support/bounded.h"
#include "tests/support/reference/moe.h"

namespace conclave::test {

struct MoeCase {
  reference::MoeSizes sizes;
  config::Experiment experiment;          // dropless, no balance terms
  reference::MoeTensors<double> tensors;  // representable in fp32
  std::vector<double> dy;                 // [T, D], representable in fp32
};

// Random data, the same on every rank. sizes.shared_d_ff is a multiple of sizes.d_ff.
MoeCase make_moe_case(const reference::MoeSizes& sizes, std::uint64_t seed);

// The reference's choices; fails the test if rounding might change one of them (choose another seed then).
reference::MoeChoices choose_without_near_ties(const MoeCase& moe);

// The member of `tensors` that holds the parameter "moe.router.weight", "moe.experts.gate_up", ...
template <class T>
std::vector<T>& tensor_of(reference::MoeTensors<T>& tensors, const std::string& parameter) {
  if (parameter == "moe.router.weight") return tensors.router;
  if (parameter == "moe.experts.gate_up") return tensors.gate_up;
  if (parameter == "moe.experts.down") return tensors.down;
  if (parameter == "moe.experts.up") return tensors.gate_up;
  if (parameter == "moe.shared.gate_up") return tensors.shared_gate_up;
  if (parameter == "moe.shared.up") return tensors.shared_gate_up;
  if (parameter == "moe.shared_gate") return tensors.shared_gate;
  if (parameter == "moe.shared.down") return tensors.shared_down;
  throw Error("the MoE layer has an unexpected parameter " + parameter);
}

// The layer "moe" of the case on the experts of grid's rank.
class MoeCaseLayer {
 public:
  MoeCaseLayer(const MoeCase& moe, const ProcessGrid& grid);

  // Forward and backward of tokens [begin, end) of the case, as one micro-batch of this rank.
  void run(Range tokens, bool training = true);

  MoeLayer& layer() { return layer_; }
  Context& context() { return context_; }
  std::vector<Parameter*> parameters();
  std::span<const float> y() const { return y_; }    // [end - begin, D]
  std::span<const float> dx() const { return dx_; }  // [end - begin, D]; empty without training

 private:
  const MoeCase& moe_;
  Arena arena_;
  StepClock clock_;
  Context context_;
  MoeLayer layer_;
  std::vector<float> x_, dy_, y_, dx_;
};

// Every element of `actual` lies within its bound of `expected`.
void expect_within_bounds(std::span<const float> actual, std::span<const Bounded> expected,
                          const std::string& what);

// Row-wise part of a [rows, ...] tensor held as a flat vector.
template <class T>
std::span<const T> rows_of(const std::vector<T>& tensor, std::int64_t all_rows, Range rows) {
  const std::size_t width = all_rows == 0 ? 0 : tensor.size() / static_cast<std::size_t>(all_rows);
  return std::span(tensor).subspan(static_cast<std::size_t>(rows.begin) * width,
                                   static_cast<std::size_t>(rows.size()) * width);
}

}  // namespace conclave::test
