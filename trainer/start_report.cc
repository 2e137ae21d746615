#include "trainer/start_report.h"

#include <fmt/format.h>

#include <iterator>
#include <map>

#include "configs/resolve.h"
#include "layers/moe/router/expert_choice_router.h"
#include "trainer/parameter_count.h"
#include "trainer/version.h"

namespace conclave {
namespace {

constexpr double kMiB = 1024.0 * 1024.0;

// "3.41 M": four significant digits with a decimal unit.
std::string short_count(std::int64_t count) {
  if (count >= 1'000'000'000) return fmt::format("{:.2f} B", static_cast<double>(count) / 1e9);
  if (count >= 1'000'000) return fmt::format("{:.2f} M", static_cast<double>(count) / 1e6);
  if (count >= 10'000) return fmt::format("{:.1f} k", static_cast<double>(count) / 1e3);
  return fmt::format("{}", count);
}

std::string model_lines(const Trainer& trainer) {
  const config::Model& model = trainer.experiment.model();
  const config::Moe& moe = trainer.experiment.moe();
  const ParameterCount count = count_parameters(trainer.experiment);
  std::string text = fmt::format(
      "model      {} layers, d_model {}, {} heads of {} ({} key/value), {} tokens of context, vocabulary "
      "{}\n",
      model.layers(), model.d_model(), model.heads(), model.head_dim(), model.kv_heads(), model.max_seq(),
      model.vocab_size());
  if (trainer.model.moe_layers().empty()) {
    text += fmt::format("           dense feed-forward of {}\n", model.d_ff());
  } else {
    text += fmt::format("           {} MoE layers: {} experts of {}, top-{} by {}{}\n",
                        trainer.model.moe_layers().size(), moe.experts(), moe.d_ff(), moe.top_k(),
                        config::Moe::Router_Name(moe.router()),
                        moe.shared_experts() > 0 ? fmt::format(", {} shared", moe.shared_experts()) : "");
  }
  text += fmt::format("parameters {} in all, {} active for a token\n", short_count(count.total),
                      short_count(count.active));
  return text;
}

std::string layout_lines(const Trainer& trainer) {
  const config::Experiment& experiment = trainer.experiment;
  const int ranks = trainer.world.size();
  std::string text = fmt::format("layout     {} {}, expert_parallel_size {} x {} expert-data\n", ranks,
                                 ranks == 1 ? "rank" : "ranks", trainer.grid.expert_parallel().size(),
                                 trainer.grid.expert_data().size());
  if (ranks > 1 && !trainer.model.moe_layers().empty())
    text += trainer.grid.describe(experiment.moe().experts());
  const data::BatchCut cut = batch_cut(experiment, ranks);
  const std::int64_t global_batch = experiment.train().global_batch();
  text += fmt::format(
      "batch      {} sequences of {}{} tokens a step = {} tokens, in {} micro-batch{} of at most {} a rank\n",
      global_batch, experiment.data().samples() == config::Data::lines ? "up to " : "",
      experiment.model().max_seq(), global_batch * experiment.model().max_seq(), cut.micro_steps(),
      cut.micro_steps() == 1 ? "" : "es", experiment.train().micro_batch());
  return text;
}

std::string filled_up_line(const config::Moe& moe) {
  return moe.pad_to_capacity() ? "           each expert is filled up to it with zero rows from every rank\n"
                               : "";
}

std::string capacity_lines(const Trainer& trainer) {
  const config::Moe& moe = trainer.experiment.moe();
  if (trainer.model.moe_layers().empty()) return "";
  if (moe.capacity_factor() == 0) return "capacity   dropless: an expert takes every token that chooses it\n";
  if (moe.router() == config::Moe::expert_choice) {
    const std::int64_t tokens = trainer.experiment.model().max_seq();
    return fmt::format(
               "capacity   {} of the {} tokens of a sequence, which each expert chooses (factor {})\n",
               expert_choice_capacity(moe, tokens), tokens, moe.capacity_factor()) +
           filled_up_line(moe) +
           (config::leaks_future(trainer.experiment)
                ? "warning    future leak: a token's experts depend on the tokens after it "
                  "(moe.allow_future_leak); the held-out loss is no fair one\n"
                : "");
  }
  const std::int64_t sequences = batch_cut(trainer.experiment, trainer.world.size()).sequences(0, 0).size();
  const std::int64_t tokens = sequences * trainer.experiment.model().max_seq();
  return fmt::format(
             "capacity   {} of the {} tokens of a rank's micro-batch for each expert (factor {}, by {})\n",
             expert_capacity(moe.capacity_factor(), tokens, moe.top_k(), moe.experts()), tokens,
             moe.capacity_factor(), config::Moe::Drop_Name(moe.drop())) +
         filled_up_line(moe);
}

std::string balance_lines(const Trainer& trainer) {
  const config::Moe& moe = trainer.experiment.moe();
  if (trainer.model.moe_layers().empty()) return "";
  if (moe.router() == config::Moe::expert_choice)
    return "balance    no term: expert_choice loads all experts alike by construction\n";
  if (moe.balance_loss() == 0) return "";
  std::string scope;
  switch (moe.balance_scope()) {
    case config::Moe::sequence:
      scope = "within each sequence: the same in every layout";
      break;
    case config::Moe::batch:
      scope = "over a micro-batch on all ranks: depends on how a step is cut";
      break;
    case config::Moe::global_batch:
      scope = "over the global batch so far: depends on how a step is cut";
      break;
  }
  return fmt::format("balance    {} * E * sum f P a layer ({} at perfect balance), {}\n", moe.balance_loss(),
                     moe.balance_loss(), scope);
}

std::string memory_line(const Trainer& trainer) {
  std::map<Sharding, double> weight_bytes;
  for (const Parameter* parameter : trainer.model.parameters()) {
    weight_bytes[parameter->sharding()] += static_cast<double>(parameter->value().elements()) * sizeof(float);
  }
  double optimizer_bytes = 0;
  for (const OwnedParameter& owned : trainer.ownership.parameters()) {
    optimizer_bytes += 2 * static_cast<double>(owned.mine.size() * owned.columns) * sizeof(float);
  }
  const double weights = weight_bytes[Sharding::kReplicated] + weight_bytes[Sharding::kExpert];
  return fmt::format(
      "memory     of this rank: weights {:.1f} MiB ({:.1f} of them experts), gradients {:.1f}, optimizer "
      "{:.1f}{}; "
      "activations follow with the first step\n",
      weights / kMiB, weight_bytes[Sharding::kExpert] / kMiB, weights / kMiB, optimizer_bytes / kMiB,
      trainer.ownership.sharded() ? " (its part of the state)" : "");
}

}  // namespace

std::string start_report(const Trainer& trainer) {
  return fmt::format("Conclave {}: run \"{}\" in {}\n", version(), trainer.experiment.run().name(),
                     trainer.experiment.run().dir()) +
         model_lines(trainer) + layout_lines(trainer) + capacity_lines(trainer) + balance_lines(trainer) +
         memory_line(trainer) + trainer.dataset.describe();
}

}  // namespace conclave
