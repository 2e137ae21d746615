#include "trainer/evaluate.h"

#include <algorithm>
#include <span>
#include <utility>

#include "trainer/routing_summary.h"

namespace conclave {
namespace {

// The held-out sequences of a source that an evaluation reads: all, or `max_sequences` evenly spaced ones.
std::vector<std::int64_t> chosen_sequences(std::int64_t all, std::int64_t max_sequences) {
  const std::int64_t count = max_sequences > 0 ? std::min(all, max_sequences) : all;
  std::vector<std::int64_t> chosen;
  for (std::int64_t i = 0; i < count; ++i) chosen.push_back(i * all / count);
  return chosen;
}

HeldOutSource evaluate_source(const EvaluationArgs& args, int source) {
  Communicator& world = args.grid.world();
  HeldOutSource result;
  result.name = args.dataset.source_names()[static_cast<std::size_t>(source)];

  const std::vector<std::int64_t> sequences =
      chosen_sequences(args.dataset.held_out_sequences(source), args.max_sequences);
  const auto count = static_cast<std::int64_t>(sequences.size());
  const std::int64_t at_once = args.micro_batch * world.size();
  double sums[4] = {};  // loss, targets, squared errors
  for (std::int64_t begin = 0; begin < count; begin += at_once) {
    const std::int64_t of_all_ranks = std::min(at_once, count - begin);
    const Range mine = partition(of_all_ranks, world.size(), world.rank());
    const auto first = static_cast<std::size_t>(begin + mine.begin);
    args.dataset.load_held_out(
        source, std::span(sequences).subspan(first, static_cast<std::size_t>(mine.size())), args.batch);

    Context ctx{.gpu = args.gpu,
                .arena = &args.arena,
                .grid = &args.grid,
                .compute = args.compute,
                .training = false};
    ctx.source_of_sequence = args.batch.source_view();
    ctx.batch.first_sequence = begin + mine.begin;
    ctx.batch.sequences = mine.size();
    ctx.batch.sequence_length = args.dataset.sequence_length();
    ctx.batch.most_sequences = partition(of_all_ranks, world.size(), 0).size();
    ctx.batch.global_sequences = of_all_ranks;
    ctx.padding = args.batch.padding_view();
    const auto sum = args.model.forward(ctx, args.batch.input_view(), args.batch.target_view());
    ctx.synchronize();
    sums[0] += sum.loss_sum;
    sums[1] += static_cast<double>(sum.targets);
    sums[2] += sum.squared_error_sum;
    sums[3] += sum.best_squared_error_sum;
    args.arena.reset();
  }
  world.all_reduce(buffer_view(std::span<double>(sums)));
  result.loss_sum = sums[0];
  result.targets = static_cast<std::int64_t>(sums[1]);
  result.squared_error_sum = sums[2];
  result.best_squared_error_sum = sums[3];
  for (const MoeStatistics& layer : take_routing_summary(args.model, world).layers) {
    result.expert_loads.push_back(layer.chosen_per_expert);
    result.labelled_tokens += layer.labelled_tokens;
    result.labelled_hits += layer.labelled_hits;
  }
  return result;
}

}  // namespace

std::optional<double> HeldOutSource::router_accuracy() const {
  if (labelled_tokens == 0) return std::nullopt;
  return static_cast<double>(labelled_hits) / static_cast<double>(labelled_tokens);
}

std::optional<double> Evaluation::router_accuracy() const {
  HeldOutSource all;
  for (const HeldOutSource& source : sources) {
    all.labelled_tokens += source.labelled_tokens;
    all.labelled_hits += source.labelled_hits;
  }
  return all.router_accuracy();
}

HeldOutSource Evaluation::total() const {
  HeldOutSource total;
  total.name = "all";
  for (const HeldOutSource& source : sources) {
    total.loss_sum += source.loss_sum;
    total.targets += source.targets;
    total.squared_error_sum += source.squared_error_sum;
    total.best_squared_error_sum += source.best_squared_error_sum;
  }
  return total;
}

Evaluation evaluate(const EvaluationArgs& args) {
  // What training has counted so far is set aside and counted on afterwards.
  std::vector<MoeStatistics> training_statistics;
  for (const auto& [block, layer] : args.model.moe_layers())
    training_statistics.push_back(layer->take_statistics());

  Evaluation evaluation;
  const auto sources = static_cast<int>(args.dataset.source_names().size());
  for (int source = 0; source < sources; ++source) {
    if (args.dataset.held_out_sequences(source) == 0) continue;
    evaluation.sources.push_back(evaluate_source(args, source));
  }

  for (std::size_t i = 0; i < training_statistics.size(); ++i) {
    args.model.moe_layers()[i].layer->take_statistics(std::move(training_statistics[i]));
  }
  return evaluation;
}

}  // namespace conclave
