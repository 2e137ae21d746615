#include "trainer/verify_layout.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>

#include "comm/self/self_communicator.h"
#include "trainer/metrics/table.h"
#include "trainer/train_step.h"
#include "trainer/trainer.h"

namespace conclave {
namespace {

constexpr double kRoundings = 16;
constexpr double kUnit = std::numeric_limits<float>::epsilon();

using Tensors = std::vector<std::vector<float>>;  // whole tensors in the order of parameters

// What one layout computed; the same on every rank of it.
struct Computed {
  std::vector<double> losses;          // [steps]
  std::vector<double> gradient_norms;  // [steps]
  Tensors gradients;                   // of the first step
  Tensors movements;                   // of the values in the first update
  std::vector<std::string> names;
};

// The whole tensor of which this rank holds `part`: each piece from the first rank that has it.
std::vector<float> gathered(const Parameter& parameter, ConstTensorView part, const ProcessGrid& grid) {
  const std::span<const float> local = part.values<float>();
  if (parameter.sharding() == Sharding::kReplicated) return {local.begin(), local.end()};
  std::vector<float> whole(static_cast<std::size_t>(parameter.global_shape().elements()));
  std::ranges::copy(local,
                    whole.begin() + parameter.local_rows().begin * parameter.global_shape().row_elements());
  grid.expert_parallel().all_reduce(buffer_view(std::span(whole)));  // zeros elsewhere change nothing
  return whole;
}

Tensors gathered_all(const Trainer& trainer, bool gradients) {
  trainer.synchronize();
  Tensors tensors;
  for (const Parameter* parameter : trainer.model.parameters()) {
    tensors.push_back(gathered(
        *parameter, gradients ? ConstTensorView(parameter->gradient()) : parameter->value(), trainer.grid));
  }
  return tensors;
}

// Moves every weight by one unit in the last place, up or down in turn.
void perturb(const Trainer& trainer) {
  for (Parameter* parameter : trainer.model.parameters()) {
    float direction = 2.0F;
    for (float& value : parameter->mutable_value().values<float>()) {
      value = std::nextafter(value, direction * std::abs(value));
      direction = -direction;
    }
  }
}

Computed compute(config::Experiment experiment, int expert_parallel_size, std::int64_t steps, bool perturbed,
                 Communicator& ranks) {
  experiment.mutable_parallel()->set_expert_parallel_size(expert_parallel_size);
  Trainer trainer(experiment, ranks);
  if (perturbed) perturb(trainer);
  Computed computed;
  for (const Parameter* parameter : trainer.model.parameters()) computed.names.push_back(parameter->name());
  const Tensors before = gathered_all(trainer, /*gradients=*/false);
  for (std::int64_t step = 0; step < steps; ++step) {
    const StepResult result = train_step(trainer, step, [&] {
      if (step == 0) computed.gradients = gathered_all(trainer, /*gradients=*/true);
    });
    computed.losses.push_back(result.loss);
    computed.gradient_norms.push_back(result.gradient_norm);
    if (step > 0) continue;
    computed.movements = gathered_all(trainer, /*gradients=*/false);
    for (std::size_t p = 0; p < before.size(); ++p) {
      std::ranges::transform(computed.movements[p], before[p], computed.movements[p].begin(), std::minus<>());
    }
  }
  return computed;
}

// Bits count as equal, whatever they are; a NaN that isn't matched is an infinite difference.
double relative(double a, double b) {
  if (a == b || (std::isnan(a) && std::isnan(b))) return 0;
  const double difference = std::abs(a - b) / std::abs(b);
  return std::isnan(difference) ? std::numeric_limits<double>::infinity() : difference;
}

double largest_relative(const std::vector<double>& a, const std::vector<double>& b) {
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) largest = std::max(largest, relative(a[i], b[i]));
  return largest;
}

// The largest ||a - b|| / ||b|| of all tensors, and whose it is.
double worst_tensor(const Tensors& a, const Tensors& b, const std::vector<std::string>& names,
                    std::string& worst) {
  double largest = 0;
  for (std::size_t p = 0; p < a.size(); ++p) {
    double difference = 0;
    double norm = 0;
    for (std::size_t i = 0; i < a[p].size(); ++i) {
      const double d = static_cast<double>(a[p][i]) - static_cast<double>(b[p][i]);
      difference += d * d;
      norm += static_cast<double>(b[p][i]) * static_cast<double>(b[p][i]);
    }
    double share = difference == 0 ? 0 : std::sqrt(difference / norm);
    if (std::isnan(share)) share = std::numeric_limits<double>::infinity();
    if (share > largest) {
      largest = share;
      worst = names[p];
    }
  }
  return largest;
}

LayoutDifference compare(const Computed& computed, const Computed& reference) {
  LayoutDifference difference;
  difference.loss = largest_relative(computed.losses, reference.losses);
  difference.gradient_norm = largest_relative(computed.gradient_norms, reference.gradient_norms);
  difference.gradient =
      worst_tensor(computed.gradients, reference.gradients, reference.names, difference.worst_gradient);
  difference.update =
      worst_tensor(computed.movements, reference.movements, reference.names, difference.worst_update);
  return difference;
}

bool is_within(const LayoutDifference& difference, const LayoutDifference& bound) {
  return difference.loss <= bound.loss && difference.gradient_norm <= bound.gradient_norm &&
         difference.gradient <= bound.gradient && difference.update <= bound.update;
}

std::vector<Layout> layouts_of(const config::Experiment& experiment, const std::vector<int>& ranks) {
  const auto experts = static_cast<int>(std::max<std::int64_t>(experiment.moe().experts(), 1));
  std::vector<Layout> layouts;
  for (const int count : ranks) {
    for (int size = 1; size <= std::min(count, experts); ++size) {
      if (count % size == 0) layouts.push_back({count, size});
    }
  }
  return layouts;
}

}  // namespace

bool LayoutReport::passed() const { return std::ranges::all_of(checks, &LayoutCheck::passed); }

void check_verifiable(const config::Experiment& experiment) {
  const config::Moe& moe = experiment.moe();
  if (moe.experts() == 0) return;
  const bool fixed_shards = experiment.run().determinism() == config::Run::cross_layout;
  if (moe.capacity_factor() != 0 && !fixed_shards) {
    throw ConfigError(
        fmt::format("moe.capacity_factor: {} is taken over one rank's micro-batch, so what is dropped "
                    "depends on the layout; to "
                    "compare layouts add moe.capacity_factor=dropless",
                    moe.capacity_factor()));
  }
  if (moe.balance_loss() != 0 && moe.balance_scope() != config::Moe::sequence) {
    throw ConfigError(
        fmt::format("moe.balance_scope: {} is taken over a micro-batch of all ranks, so the balance loss "
                    "depends on the layout; to "
                    "compare layouts add moe.balance_scope=sequence",
                    config::Moe::BalanceScope_Name(moe.balance_scope())));
  }
}

LayoutReport verify_layouts(const config::Experiment& experiment, const std::vector<int>& ranks,
                            std::int64_t steps, Communicator& world) {
  LayoutReport report;
  report.steps = steps;
  // Every rank computes the reference by itself, as a world of one.
  const auto alone = make_self_communicator();
  const Computed reference = compute(experiment, 1, steps, /*perturbed=*/false, *alone);
  if (experiment.run().determinism() == config::Run::same_layout) {
    report.bound = compare(compute(experiment, 1, steps, /*perturbed=*/true, *alone), reference);
    for (double* bound :
         {&report.bound.loss, &report.bound.gradient_norm, &report.bound.gradient, &report.bound.update}) {
      *bound = kRoundings * (*bound + kUnit);
    }
  }

  for (const Layout& layout : layouts_of(experiment, ranks)) {
    LayoutCheck check{.layout = layout, .difference = {}, .passed = false};
    const bool takes_part = world.rank() < layout.ranks;
    const auto group = world.split(takes_part ? 0 : 1, world.rank(), "layout");
    if (takes_part) {
      check.difference = compare(
          compute(experiment, layout.expert_parallel_size, steps, /*perturbed=*/false, *group), reference);
    }
    // Every rank of the layout compared for itself; the worst one counts.
    std::vector<double> worst = {check.difference.loss, check.difference.gradient_norm,
                                 check.difference.gradient, check.difference.update};
    world.all_reduce(buffer_view(std::span(worst)), ReduceOp::kMax);
    check.difference.loss = worst[0];
    check.difference.gradient_norm = worst[1];
    check.difference.gradient = worst[2];
    check.difference.update = worst[3];
    check.passed = is_within(check.difference, report.bound);
    report.checks.push_back(check);
  }
  return report;
}

std::string to_text(const LayoutReport& report) {
  const auto number = [](double value) {
    return value == 0 ? std::string("equal") : fmt::format("{:.1e}", value);
  };
  std::vector<std::vector<std::string>> rows;
  for (const LayoutCheck& check : report.checks) {
    rows.push_back({std::to_string(check.layout.ranks), std::to_string(check.layout.expert_parallel_size),
                    number(check.difference.loss), number(check.difference.gradient_norm),
                    number(check.difference.gradient), number(check.difference.update),
                    check.passed ? "ok" : "DIFFERS"});
  }
  rows.push_back({"", "bound", number(report.bound.loss), number(report.bound.gradient_norm),
                  number(report.bound.gradient), number(report.bound.update), ""});
  std::string text = format_table(
      {"ranks", "expert_parallel_size", "loss", "gradient norm", "worst gradient", "worst update", "verdict"},
      rows);
  const auto worst = std::ranges::max_element(
      report.checks, {}, [](const LayoutCheck& check) { return check.difference.gradient; });
  if (worst != report.checks.end() && !worst->difference.worst_gradient.empty()) {
    text += fmt::format("worst parameter: gradient of {} on {} ranks with expert_parallel_size {}\n",
                        worst->difference.worst_gradient, worst->layout.ranks,
                        worst->layout.expert_parallel_size);
  }
  const auto failed = std::ranges::count(report.checks, false, &LayoutCheck::passed);
  text += failed == 0 ? fmt::format("all {} layouts compute the same over {} steps\n", report.checks.size(),
                                    report.steps)
                      : fmt::format("{} of {} layouts differ by more than rounding explains\n", failed,
                                    report.checks.size());
  return text;
}

}  // namespace conclave
