// A number that knows how far off an fp32 evaluation of it may be: running a templated reference on Bounded
// gives the value in double precision and, beside it, a tolerance that follows from the arithmetic.
//
// The bound is Higham's running error analysis ("Accuracy and Stability of Numerical Algorithms",
// section 3.3), made independent of the order of sums: a sum of n terms errs by at most (n - 1) u sum|terms|
// in any order. Every operation is charged eps = 2 u instead of u, which covers the second-order terms and
// fused or split operations.
#pragma once

#include <cmath>
#include <limits>

namespace conclave::test {

class Bounded {
 public:
  Bounded(double exact = 0.0) : value_(exact), magnitude_(std::abs(exact)) {}

  double value() const { return value_; }
  double error() const { return inherited_ + kCharge * (terms_ - 1.0) * magnitude_; }

  friend Bounded operator+(const Bounded& a, const Bounded& b) {
    Bounded sum;
    sum.value_ = a.value_ + b.value_;
    sum.magnitude_ = a.magnitude_ + b.magnitude_;
    sum.terms_ = a.terms_ + b.terms_;
    sum.inherited_ = a.inherited_ + b.inherited_;
    return sum;
  }
  friend Bounded operator-(const Bounded& a) {
    Bounded negated = a;
    negated.value_ = -a.value_;
    return negated;
  }
  friend Bounded operator-(const Bounded& a, const Bounded& b) { return a + -b; }
  friend Bounded operator*(const Bounded& a, const Bounded& b) {
    return rounded(a.value_ * b.value_,
                   std::abs(a.value_) * b.error() + std::abs(b.value_) * a.error() + a.error() * b.error());
  }
  friend Bounded operator/(const Bounded& a, const Bounded& b) {
    const double quotient = a.value_ / b.value_;
    return rounded(quotient, (a.error() + std::abs(quotient) * b.error()) / (std::abs(b.value_) - b.error()));
  }
  // For implementations within 4 units in the last place.
  friend Bounded exp(const Bounded& a) {
    const double power = std::exp(a.value_);
    return rounded(power, power * (std::expm1(a.error()) + 4 * kCharge));
  }
  Bounded& operator+=(const Bounded& other) { return *this = *this + other; }

 private:
  static constexpr double kCharge = std::numeric_limits<float>::epsilon();

  static Bounded rounded(double value, double propagated) {
    Bounded result(value);
    result.inherited_ = propagated + kCharge * std::abs(value);
    return result;
  }

  double value_ = 0;
  double magnitude_ = 0;  // sum of the magnitudes of the terms that were added up
  double terms_ = 1;      // how many those are
  double inherited_ = 0;  // sum of the errors of the terms
};

}  // namespace conclave::test
