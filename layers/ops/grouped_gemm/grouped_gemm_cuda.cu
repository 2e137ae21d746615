// Which products the functions of kernels.h are, and by which element type.
#include "layers/ops/grouped_gemm/grouped_products.cuh"

namespace conclave::cuda {
namespace {

template <class Element>
RowsProduct<Element> rows_product(const GroupedProblem& problem, const Element* left, ConstElements weights,
                                  Elements results) {
  return {.offsets = problem.offsets,
          .groups = problem.groups,
          .rows = problem.rows,
          .columns = problem.outputs,
          .inner = problem.inputs,
          .left = left,
          .weights = static_cast<const Element*>(weights.data),
          .weights_lie_across = false,
          .results = results};
}

}  // namespace

void grouped_gemm(StreamHandle stream, const GroupedProblem& problem, ConstElements x, ConstElements weights,
                  Elements y) {
  visit(x, [&](const auto* left) { multiply_rows(stream, rows_product(problem, left, weights, y)); });
}

void grouped_gemm_input_gradient(StreamHandle stream, const GroupedProblem& problem, ConstElements dy,
                                 ConstElements weights, Elements dx) {
  visit(dy, [&](const auto* left) {
    auto product = rows_product(problem, left, weights, dx);
    product.columns = problem.inputs;
    product.inner = problem.outputs;
    product.weights_lie_across = true;
    multiply_rows(stream, product);
  });
}

void grouped_gemm_weight_gradient(StreamHandle stream, const GroupedProblem& problem, ConstElements dy,
                                  ConstElements x, float* dweights) {
  visit(dy, [&]<class Element>(const Element* left) {
    sum_outer_products(stream, OuterProducts<Element>{.offsets = problem.offsets,
                                                      .groups = problem.groups,
                                                      .outputs = problem.outputs,
                                                      .inputs = problem.inputs,
                                                      .dy = left,
                                                      .x = static_cast<const Element*>(x.data),
                                                      .dweights = dweights,
                                                      .accumulate = problem.accumulate});
  });
}

}  // namespace conclave::cuda
