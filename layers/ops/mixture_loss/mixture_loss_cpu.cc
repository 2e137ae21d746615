#include <algorithm>
#include <cmath>
#include <vector>

#include "layers/ops/mixture_loss/mixture_loss.h"

namespace conclave::cpu {
namespace {

// values become exp(values) / their sum; returns ln of the sum of the exponentials.
double softmax(std::vector<double>& values) {
  const double maximum = *std::ranges::max_element(values);
  double sum = 0;
  for (double& value : values) sum += value = std::exp(value - maximum);
  for (double& value : values) value /= sum;
  return maximum + std::log(sum);
}

}  // namespace

MixtureLossResult mixture_loss(const MixtureLossArgs& args) {
  const std::int64_t samples = args.logits.extent(0);
  const std::int64_t experts = args.logits.extent(1);
  const std::int64_t width = args.targets.extent(1);
  const double precision = 1 / (args.sigma * args.sigma);
  const bool gradients = args.dlogits.elements() > 0;
  std::vector<double> p(static_cast<std::size_t>(experts));  // the gate's
  std::vector<double> h(static_cast<std::size_t>(experts));  // posterior
  MixtureLossResult result;
  for (std::int64_t t = 0; t < samples; ++t) {
    const float* logits = args.logits.data<float>() + t * experts;
    const float* target = args.targets.data<float>() + t * width;
    const std::int32_t* rows = args.row_of_choice.data<std::int32_t>() + t * experts;
    const auto output = [&](std::int64_t e) { return args.outputs.data<float>() + rows[e] * width; };
    const auto squared_error = [&](std::int64_t e) {
      double sum = 0;
      for (std::int64_t i = 0; i < width; ++i) {
        const double error = static_cast<double>(output(e)[i]) - static_cast<double>(target[i]);
        sum += error * error;
      }
      return sum;
    };

    std::copy_n(logits, experts, p.begin());
    const double gate_log_sum = softmax(p);
    for (std::int64_t e = 0; e < experts; ++e) {
      h[static_cast<std::size_t>(e)] = static_cast<double>(logits[e]) - 0.5 * precision * squared_error(e);
    }
    result.loss_sum += gate_log_sum - softmax(h);

    const std::int64_t best = std::ranges::max_element(p) - p.begin();
    args.best.data<std::int32_t>()[t] = static_cast<std::int32_t>(best);
    result.best_squared_error_sum += squared_error(best);
    for (std::int64_t i = 0; i < width; ++i) {
      double mean = 0;
      for (std::int64_t e = 0; e < experts; ++e)
        mean += p[static_cast<std::size_t>(e)] * static_cast<double>(output(e)[i]);
      const double error = mean - static_cast<double>(target[i]);
      result.squared_error_sum += error * error;
    }
    for (const double probability : p) {
      if (probability > 0) result.entropy_sum -= probability * std::log(probability);
    }

    if (!gradients) continue;
    for (std::int64_t e = 0; e < experts; ++e) {
      const auto index = static_cast<std::size_t>(e);
      args.dlogits.data<float>()[t * experts + e] = static_cast<float>(args.scale * (p[index] - h[index]));
      const double factor = args.scale * h[index] * precision;
      float* doutput = args.doutputs.data<float>() + rows[e] * width;
      for (std::int64_t i = 0; i < width; ++i) {
        doutput[i] =
            static_cast<float>(factor * (static_cast<double>(output(e)[i]) - static_cast<double>(target[i])));
      }
    }
  }
  return result;
}

}  // namespace conclave::cpu
