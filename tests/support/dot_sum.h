// A dot product in double precision, with what its fp32 bound needs (tolerance.h).
#pragma once

#include <cmath>

namespace conclave::test {

struct DotSum {
  double value = 0;
  double magnitude = 0;
  double terms = 0;
  void add(double a, double b) {
    value += a * b;
    magnitude += std::abs(a * b);
    terms += 1;
  }
};

}  // namespace conclave::test
