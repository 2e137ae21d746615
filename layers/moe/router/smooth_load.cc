#include "layers/moe/router/smooth_load.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <span>

#include "layers/cuda/arguments.h"
#include "layers/cuda/moe_kernels.h"
#include "layers/ops/check_shape.h"

namespace conclave {
namespace {

void check(const SmoothLoadArgs& args) {
  check_matrix(args.clean, "clean logits of smooth_load");
  check_matrix(args.chosen, "chosen experts of smooth_load");
  const Shape& shape = args.clean.shape();
  check_shape(args.noisy, shape, "noisy logits of smooth_load");
  check_shape(args.deviation, shape, "deviation of smooth_load");
  check_shape(args.chosen, {shape[0], args.chosen.extent(1)}, "chosen experts of smooth_load");
}

// Whose noisy logits are the thresholds of one token: that of a chosen expert is the best that isn't chosen,
// that of any other the last chosen.
class Thresholds {
 public:
  // K < E.
  Thresholds(std::span<const float> noisy, std::span<const std::int32_t> chosen) : chosen_(chosen) {
    for (std::int32_t e = 0; e < static_cast<std::int32_t>(noisy.size()); ++e) {
      if (is_chosen(e)) continue;
      if (best_other_ < 0 ||
          noisy[static_cast<std::size_t>(e)] > noisy[static_cast<std::size_t>(best_other_)])
        best_other_ = e;
    }
  }
  std::int64_t of(std::int64_t expert) const { return is_chosen(expert) ? best_other_ : chosen_.back(); }

 private:
  bool is_chosen(std::int64_t expert) const { return std::ranges::find(chosen_, expert) != chosen_.end(); }

  std::span<const std::int32_t> chosen_;  // [K]
  std::int32_t best_other_ = -1;
};

// By how many deviations an expert's clean logit passes its threshold. A logit of -inf never does, whatever
// the threshold.
double margin(float clean, float threshold, float deviation) {
  if (clean == -std::numeric_limits<float>::infinity()) return clean;
  return (static_cast<double>(clean) - threshold) / deviation;
}

cuda::SmoothLoadProblem problem_of(Context& ctx, const SmoothLoadArgs& args) {
  return {.tokens = args.clean.extent(0),
          .experts = args.clean.extent(1),
          .top_k = args.chosen.extent(1),
          .clean = args.clean.data<float>(),
          .noisy = args.noisy.data<float>(),
          .deviation = args.deviation.data<float>(),
          .chosen = args.chosen.data<std::int32_t>(),
          .padding = cuda::padding_on_gpu(ctx)};
}

}  // namespace

void smooth_load(Context& ctx, const SmoothLoadArgs& args, TensorView load) {
  check(args);
  check_shape(load, args.clean.shape(), "load of smooth_load");
  if (ctx.on_gpu()) {
    const Arena::Mark scratch(*ctx.arena);
    return cuda::smooth_load(cuda::stream_of(ctx), problem_of(ctx, args), load.data<float>());
  }
  const std::int64_t E = args.clean.extent(1);
  const bool all_chosen = args.chosen.extent(1) == E;
#pragma omp parallel for schedule(static)
  for (std::int64_t t = 0; t < args.clean.extent(0); ++t) {
    float* p = load.data<float>() + t * E;
    if (all_chosen || ctx.is_padding(t)) {
      std::fill_n(p, E, ctx.is_padding(t) ? 0.0F : 1.0F);
      continue;
    }
    const float* clean = args.clean.data<float>() + t * E;
    const float* noisy = args.noisy.data<float>() + t * E;
    const float* deviation = args.deviation.data<float>() + t * E;
    const Thresholds thresholds({noisy, static_cast<std::size_t>(E)},
                                args.chosen.rows(t, t + 1).values<std::int32_t>());
    for (std::int64_t e = 0; e < E; ++e) {
      const double z = margin(clean[e], noisy[thresholds.of(e)], deviation[e]);
      p[e] = static_cast<float>(0.5 * std::erfc(-z / std::numbers::sqrt2));
    }
  }
}

void smooth_load_backward(Context& ctx, const SmoothLoadArgs& args, ConstTensorView dload,
                          const SmoothLoadGradient& gradient) {
  check(args);
  for (const TensorView& part : {gradient.dclean, gradient.dnoisy, gradient.ddeviation})
    check_shape(part, args.clean.shape(), "gradient of smooth_load");
  const std::int64_t T = args.clean.extent(0);
  const std::int64_t E = args.clean.extent(1);
  const bool all_chosen = args.chosen.extent(1) == E;
  const std::int64_t tokens_a_row = T > 0 ? T / dload.extent(0) : 1;
  if (ctx.on_gpu()) {
    const Arena::Mark scratch(*ctx.arena);
    return cuda::smooth_load_backward(cuda::stream_of(ctx), problem_of(ctx, args), dload.data<float>(),
                                      tokens_a_row, gradient.dclean.data<float>(),
                                      gradient.dnoisy.data<float>(), gradient.ddeviation.data<float>());
  }
  const double density_at_0 = 1 / std::sqrt(2 * std::numbers::pi);
#pragma omp parallel for schedule(static)
  for (std::int64_t t = 0; t < T; ++t) {
    float* dclean = gradient.dclean.data<float>() + t * E;
    float* dnoisy = gradient.dnoisy.data<float>() + t * E;
    float* ddeviation = gradient.ddeviation.data<float>() + t * E;
    if (all_chosen || ctx.is_padding(t)) {
      std::fill_n(dclean, E, 0.0F);
      std::fill_n(ddeviation, E, 0.0F);
      continue;
    }
    const float* clean = args.clean.data<float>() + t * E;
    const float* noisy = args.noisy.data<float>() + t * E;
    const float* deviation = args.deviation.data<float>() + t * E;
    const float* dp = dload.data<float>() + t / tokens_a_row * E;
    const Thresholds thresholds({noisy, static_cast<std::size_t>(E)},
                                args.chosen.rows(t, t + 1).values<std::int32_t>());
    for (std::int64_t e = 0; e < E; ++e) {
      const std::int64_t threshold = thresholds.of(e);
      const double z = margin(clean[e], noisy[threshold], deviation[e]);
      const double slope = dp[e] * density_at_0 * std::exp(-z * z / 2) / deviation[e];  // dP / dclean
      dclean[e] = static_cast<float>(slope);
      dnoisy[threshold] -= static_cast<float>(slope);
      ddeviation[e] = std::isinf(z) ? 0.0F : static_cast<float>(-slope * z);
    }
  }
}

}  // namespace conclave
