// Tokens to rows and back: the two sides of a dispatch plan on one rank.
//
// Token t of T has K choices; choice t * K + k is row row_of_choice[t * K + k] of R, or kDroppedChoice. A row
// belongs to exactly one choice, choice_of_row, or to none (kNoChoiceOfRow): it only fills an expert up. Rows
// and their gradients are fp32 or bf16, all else is fp32; sums run over k in ascending order. The indices are
// trusted (a DispatchPlan made them) and lie on the host or where ctx computes; each function throws Error
// for shapes that do not fit them.
#pragma once

#include <cstdint>

#include "layers/context.h"

namespace conclave {

inline constexpr std::int32_t kDroppedChoice = -1;
inline constexpr std::int32_t kNoChoiceOfRow = -1;

struct GatherRowsArgs {
  ConstTensorView x;              // [T, D]
  ConstTensorView choice_of_row;  // int32 [R]
  std::int64_t top_k = 1;         // K
  TensorView rows;                // [R, D]; may be uninitialised, must not overlap x
};
// rows[r] = x[choice_of_row[r] / K]; 0 for a row of no choice.
void gather_rows(Context& ctx, const GatherRowsArgs& args);

struct GatherRowsBackwardArgs {
  ConstTensorView drows;          // [R, D]
  ConstTensorView row_of_choice;  // int32 [T * K]
  std::int64_t top_k = 1;         // K
  TensorView dx;                  // [T, D]; added to
};
// dx[t] += sum over the kept choices k of drows[row_of_choice[t * K + k]].
void gather_rows_backward(Context& ctx, const GatherRowsBackwardArgs& args);

struct CombineRowsArgs {
  ConstTensorView rows;           // [R, D]
  ConstTensorView weights;        // [T, K]
  ConstTensorView row_of_choice;  // int32 [T * K]
  TensorView y;                   // [T, D]
  bool accumulate = false;        // true: +=, false: = (y may be uninitialised)
};
// y[t] = sum over the kept choices k of weights[t, k] * rows[row_of_choice[t * K + k]].
void combine_rows(Context& ctx, const CombineRowsArgs& args);

struct CombineRowsBackwardArgs {
  ConstTensorView dy;             // [T, D]
  ConstTensorView rows;           // [R, D], as given to combine_rows
  ConstTensorView weights;        // [T, K]
  ConstTensorView row_of_choice;  // int32 [T * K]
  TensorView drows;               // [R, D]; may be uninitialised; may be `rows` itself
  TensorView dweights;            // [T, K]; may be uninitialised
};
// For every kept choice: drows[r] = weights[t, k] * dy[t] and dweights[t, k] = dy[t] . rows[r]; the weight of
// a dropped choice has gradient 0. Rows of no choice stay as they are: see clear_rows_without_choice.
void combine_rows_backward(Context& ctx, const CombineRowsBackwardArgs& args);

// rows[r] = 0 for every row of no choice. rows [R, D], choice_of_row int32 [R].
void clear_rows_without_choice(Context& ctx, const ConstTensorView& choice_of_row, TensorView rows);

namespace cpu {  // arguments already checked
void gather_rows(const GatherRowsArgs& args);
void gather_rows_backward(const GatherRowsBackwardArgs& args);
void combine_rows(const CombineRowsArgs& args);
void combine_rows_backward(const CombineRowsBackwardArgs& args);
void clear_rows_without_choice(const ConstTensorView& choice_of_row, TensorView rows);
}  // namespace cpu

}  // namespace conclave
