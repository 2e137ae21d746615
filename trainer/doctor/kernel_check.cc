#include "trainer/doctor/kernel_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "layers/tensor/philox.h"

namespace conclave {
namespace {

constexpr double kRoundings = 8;  // against the one of each operand and of the result

using Values = std::vector<float>;

double unit_of(DType dtype) { return dtype == DType::kBFloat16 ? 0x1p-8 : 0x1p-23; }

float as_held_by(DType dtype, float value) {
  return dtype == DType::kBFloat16 ? static_cast<float>(bfloat16(value)) : value;
}

// The same for both devices.
std::vector<Values> random_operands(const KernelCase& kernel_case) {
  std::vector<Values> operands;
  for (const Shape& shape : kernel_case.operands) {
    const RandomStream random(1, kernel_case.name, operands.size());
    Values& values = operands.emplace_back(static_cast<std::size_t>(shape.elements()));
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = as_held_by(kernel_case.compute, random.normal(i));
  }
  return operands;
}

// Every value moved by one rounding, up or down in turn.
std::vector<Values> perturbed(std::vector<Values> operands, double unit) {
  double direction = 1;
  for (Values& values : operands) {
    for (float& value : values) {
      value = static_cast<float>(value * (1 + direction * unit));
      direction = -direction;
    }
  }
  return operands;
}

Values floats_of(const TensorView& tensor) {
  Values values;
  const auto append = [&](auto elements) {
    for (const auto element : elements) values.push_back(static_cast<float>(element));
  };
  if (tensor.dtype() == DType::kBFloat16) {
    append(tensor.values<bfloat16>());
  } else {
    append(tensor.values<float>());
  }
  return values;
}

struct Computed {
  std::vector<std::string> names;
  std::vector<Values> results;
};

// On the GPU, or on the host where there is none.
Computed compute(const KernelCase& kernel_case, const std::vector<Values>& operands, cuda::Engine* gpu) {
  Arena arena(gpu != nullptr ? gpu->device() : Device());
  Context ctx{.gpu = gpu, .arena = &arena};
  if (gpu != nullptr) ctx.compute = kernel_case.compute;
  std::vector<TensorView> tensors;
  for (std::size_t i = 0; i < operands.size(); ++i) {
    const DType dtype = gpu != nullptr ? kernel_case.operand : DType::kFloat32;
    const TensorView& tensor = tensors.emplace_back(arena.allocate(kernel_case.operands[i], dtype));
    if (dtype == DType::kBFloat16) {
      std::ranges::transform(operands[i], tensor.data<bfloat16>(),
                             [](float value) { return bfloat16(value); });
    } else {
      std::ranges::copy(operands[i], tensor.data<float>());
    }
  }
  const std::vector<KernelCase::Result> results = kernel_case.run(ctx, tensors);
  ctx.synchronize();
  Computed computed;
  for (const KernelCase::Result& result : results) {
    computed.names.push_back(result.name);
    computed.results.push_back(floats_of(result.values));
  }
  return computed;
}

double largest(const Values& values) {
  double largest = 0;
  for (const float value : values) largest = std::max(largest, std::abs(static_cast<double>(value)));
  return largest;
}

double largest_difference(const Values& a, const Values& b) {
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    largest =
        std::max(largest, std::isnan(difference) ? std::numeric_limits<double>::infinity() : difference);
  }
  return largest;
}

KernelAgreement check(const KernelCase& kernel_case, cuda::Engine& gpu) {
  const double unit = unit_of(kernel_case.rounding);
  const std::vector<Values> operands = random_operands(kernel_case);
  const Computed expected = compute(kernel_case, operands, nullptr);
  const Computed moved = compute(kernel_case, perturbed(operands, unit), nullptr);
  const Computed actual = compute(kernel_case, operands, &gpu);
  KernelAgreement worst{.name = kernel_case.name, .result = expected.names.front()};
  for (std::size_t i = 0; i < expected.results.size(); ++i) {
    const Values& reference = expected.results[i];
    const double explained = largest_difference(moved.results[i], reference) + unit * largest(reference);
    const KernelAgreement agreement{.name = kernel_case.name,
                                    .result = expected.names[i],
                                    .difference = largest_difference(actual.results[i], reference),
                                    .bound = kRoundings * explained};
    if (agreement.share() > worst.share()) worst = agreement;
  }
  return worst;
}

}  // namespace

double KernelAgreement::share() const { return difference == 0 ? 0 : difference / bound; }

std::vector<KernelAgreement> check_kernels(cuda::Engine& gpu, const std::vector<KernelCase>& cases) {
  std::vector<KernelAgreement> agreements;
  for (const KernelCase& kernel_case : cases) agreements.push_back(check(kernel_case, gpu));
  return agreements;
}

std::string describe(std::span<const KernelAgreement> agreements) {
  std::string text;
  KernelAgreement furthest;
  for (const KernelAgreement& agreement : agreements) {
    if (agreement.share() >= furthest.share()) furthest = agreement;
    if (agreement.agrees()) continue;
    text += fmt::format("kernels      {} of {} DIFFERS from the CPU by {:.1e}; rounding explains {:.1e}\n",
                        agreement.result, agreement.name, agreement.difference, agreement.bound);
  }
  if (!text.empty()) return text;
  return fmt::format(
      "kernels      agree with the CPU in {} cases; the furthest is {} of {}, by {:.0f} % of what rounding "
      "explains\n",
      agreements.size(), furthest.result, furthest.name, 100 * furthest.share());
}

}  // namespace conclave
