#include <algorithm>

#include "layers/ops/permute/permute.h"
#include "layers/tensor/visit_elements.h"

namespace conclave::cpu {
namespace {

template <class Element>
void gather(const GatherRowsArgs& args, Element* rows) {
  const std::int64_t row_count = args.rows.extent(0);
  const std::int64_t width = args.rows.extent(1);
  const float* x = args.x.data<float>();
  const std::int32_t* choice_of_row = args.choice_of_row.data<std::int32_t>();
#pragma omp parallel for
  for (std::int64_t r = 0; r < row_count; ++r) {
    Element* row = rows + r * width;
    if (choice_of_row[r] == kNoChoiceOfRow) {
      std::fill_n(row, width, Element(0.0F));
      continue;
    }
    const float* token = x + choice_of_row[r] / args.top_k * width;
#pragma omp simd
    for (std::int64_t d = 0; d < width; ++d) set(row[d], token[d]);
  }
}

template <class Element>
void gather_backward(const GatherRowsBackwardArgs& args, const Element* drows) {
  const std::int64_t tokens = args.dx.extent(0);
  const std::int64_t width = args.dx.extent(1);
  const std::int32_t* row_of_choice = args.row_of_choice.data<std::int32_t>();
  float* dx = args.dx.data<float>();
#pragma omp parallel for
  for (std::int64_t token = 0; token < tokens; ++token) {
    float* dx_token = dx + token * width;
    for (std::int64_t k = 0; k < args.top_k; ++k) {
      const std::int64_t row = row_of_choice[token * args.top_k + k];
      if (row == kDroppedChoice) continue;
      const Element* drow = drows + row * width;
#pragma omp simd
      for (std::int64_t d = 0; d < width; ++d) dx_token[d] += to_float(drow[d]);
    }
  }
}

template <class Element>
void combine(const CombineRowsArgs& args, const Element* rows) {
  const std::int64_t tokens = args.y.extent(0);
  const std::int64_t width = args.y.extent(1);
  const std::int64_t top_k = args.weights.extent(1);
  const float* weights = args.weights.data<float>();
  const std::int32_t* row_of_choice = args.row_of_choice.data<std::int32_t>();
  float* y = args.y.data<float>();
#pragma omp parallel for
  for (std::int64_t token = 0; token < tokens; ++token) {
    float* y_token = y + token * width;
    if (!args.accumulate) std::fill_n(y_token, width, 0.0F);
    for (std::int64_t k = 0; k < top_k; ++k) {
      const std::int64_t row = row_of_choice[token * top_k + k];
      if (row == kDroppedChoice) continue;
      const float weight = weights[token * top_k + k];
      const Element* values = rows + row * width;
#pragma omp simd
      for (std::int64_t d = 0; d < width; ++d) y_token[d] += weight * to_float(values[d]);
    }
  }
}

template <class Element>
void combine_backward(const CombineRowsBackwardArgs& args, const Element* rows) {
  const std::int64_t tokens = args.dy.extent(0);
  const std::int64_t width = args.dy.extent(1);
  const std::int64_t top_k = args.weights.extent(1);
  const float* dy = args.dy.data<float>();
  const float* weights = args.weights.data<float>();
  const std::int32_t* row_of_choice = args.row_of_choice.data<std::int32_t>();
  Element* drows = args.drows.data<Element>();
  float* dweights = args.dweights.data<float>();
#pragma omp parallel for
  for (std::int64_t token = 0; token < tokens; ++token) {
    const float* dy_token = dy + token * width;
    for (std::int64_t choice = token * top_k; choice < (token + 1) * top_k; ++choice) {
      const std::int64_t row = row_of_choice[choice];
      float dweight = 0.0F;
      if (row != kDroppedChoice) {
        const float weight = weights[choice];
        const Element* values = rows + row * width;
        Element* drow = drows + row * width;
        // Each element is read before it is written, so drows may be rows.
#pragma omp simd reduction(+ : dweight)
        for (std::int64_t d = 0; d < width; ++d) {
          dweight += dy_token[d] * to_float(values[d]);
          set(drow[d], weight * dy_token[d]);
        }
      }
      dweights[choice] = dweight;
    }
  }
}

}  // namespace

void gather_rows(const GatherRowsArgs& args) {
  visit_elements(args.rows, [&](auto* rows) { gather(args, rows); });
}

void gather_rows_backward(const GatherRowsBackwardArgs& args) {
  visit_elements(args.drows, [&](const auto* drows) { gather_backward(args, drows); });
}

void combine_rows(const CombineRowsArgs& args) {
  visit_elements(args.rows, [&](const auto* rows) { combine(args, rows); });
}

void combine_rows_backward(const CombineRowsBackwardArgs& args) {
  visit_elements(args.rows, [&](const auto* rows) { combine_backward(args, rows); });
}

void clear_rows_without_choice(const ConstTensorView& choice_of_row, TensorView rows) {
  const auto choices = choice_of_row.values<std::int32_t>();
  const std::int64_t row_count = rows.extent(0);
  const std::int64_t width = rows.extent(1);
  visit_elements(rows, [&]<class Element>(Element* values) {
#pragma omp parallel for
    for (std::int64_t row = 0; row < row_count; ++row) {
      if (choices[static_cast<std::size_t>(row)] == kNoChoiceOfRow)
        std::fill_n(values + row * width, width, Element(0.0F));
    }
  });
}

}  // namespace conclave::cpu
