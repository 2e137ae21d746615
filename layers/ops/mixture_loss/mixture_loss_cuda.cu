#include "layers/cuda/elements.cuh"
#include "layers/cuda/launch.cuh"

namespace conclave::cuda {
namespace {

// values [E] become exp(values) / their sum; returns ln of the sum of the exponentials.
__device__ double softmax(double* values, std::int64_t experts) {
  double maximum = values[0];
  for (std::int64_t e = 1; e < experts; ++e) maximum = fmax(maximum, values[e]);
  double sum = 0;
  for (std::int64_t e = 0; e < experts; ++e) sum += values[e] = exp(values[e] - maximum);
  for (std::int64_t e = 0; e < experts; ++e) values[e] /= sum;
  return maximum + log(sum);
}

__device__ double squared_error(const float* output, const float* target, std::int64_t width) {
  double sum = 0;
  for (std::int64_t i = 0; i < width; ++i) {
    const double error = static_cast<double>(output[i]) - static_cast<double>(target[i]);
    sum += error * error;
  }
  return sum;
}

// A thread a sample, in double as on the CPU: experts and outputs are few.
__global__ void mixture_loss_kernel(MixtureLoss args) {
  const std::int64_t t = global_thread();
  if (t >= args.samples) return;
  const std::int64_t E = args.experts;
  const std::int64_t O = args.width;
  const float* logits = args.logits + t * E;
  const float* target = args.targets + t * O;
  const std::int32_t* rows = args.row_of_choice + t * E;
  double* p = args.gate + t * E;
  double* h = args.posterior + t * E;

  for (std::int64_t e = 0; e < E; ++e) {
    p[e] = static_cast<double>(logits[e]);
    h[e] = p[e] - 0.5 * args.precision * squared_error(args.outputs + rows[e] * O, target, O);
  }
  const double gate_log_sum = softmax(p, E);
  const double loss = gate_log_sum - softmax(h, E);

  std::int64_t best = 0;
  double entropy = 0;
  for (std::int64_t e = 0; e < E; ++e) {
    if (p[e] > p[best]) best = e;
    if (p[e] > 0) entropy -= p[e] * log(p[e]);
  }
  double error_of_mean = 0;
  for (std::int64_t i = 0; i < O; ++i) {
    double mean = 0;
    for (std::int64_t e = 0; e < E; ++e) mean += p[e] * static_cast<double>(args.outputs[rows[e] * O + i]);
    const double error = mean - static_cast<double>(target[i]);
    error_of_mean += error * error;
  }
  args.best[t] = static_cast<std::int32_t>(best);
  double* terms = args.terms + 4 * t;
  terms[0] = loss;
  terms[1] = error_of_mean;
  terms[2] = squared_error(args.outputs + rows[best] * O, target, O);
  terms[3] = entropy;

  if (args.dlogits == nullptr) return;
  for (std::int64_t e = 0; e < E; ++e) {
    args.dlogits[t * E + e] = static_cast<float>(args.scale * (p[e] - h[e]));
    const double factor = args.scale * h[e] * args.precision;
    const float* output = args.outputs + rows[e] * O;
    float* doutput = args.doutputs + rows[e] * O;  // may be the outputs themselves
    for (std::int64_t i = 0; i < O; ++i) {
      doutput[i] =
          static_cast<float>(factor * (static_cast<double>(output[i]) - static_cast<double>(target[i])));
    }
  }
}

}  // namespace

void mixture_loss(StreamHandle stream, const MixtureLoss& args) {
  if (args.samples == 0) return;
  launch("mixture_loss", stream, blocks_for(args.samples), kThreads, 0, mixture_loss_kernel, args);
}

}  // namespace conclave::cuda
