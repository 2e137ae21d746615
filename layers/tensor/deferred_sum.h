// A sum that may still be on its way from a GPU.
#pragma once

#include "layers/tensor/tensor_view.h"

namespace conclave {

class DeferredSum {
 public:
  DeferredSum() = default;
  // There already.
  DeferredSum(double value) : value_(value) {}
  // In a tensor fp64 [1], when the context that computes it is synchronized, and until its arena is reset.
  explicit DeferredSum(const TensorView& cell) : cell_(cell.data<double>()) {}

  // Where it will be; null where it is there already.
  const double* cell() const { return cell_; }
  operator double() const { return cell_ != nullptr ? *cell_ : value_; }

 private:
  double value_ = 0;
  const double* cell_ = nullptr;
};

}  // namespace conclave
