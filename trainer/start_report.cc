#include "trainer/start_report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>
#include <utility>
#include <vector>

#include "configs/moe_layers.h"
#include "configs/resolve.h"
#include "layers/moe/dispatch_plan.h"
#include "layers/moe/router/expert_choice_router.h"
#include "optim/freeze.h"
#include "trainer/activation_memory.h"
#include "trainer/compute_device.h"
#include "trainer/evaluation_report.h"
#include "trainer/interop/architecture.h"
#include "trainer/model_flops.h"
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

std::string regression_lines(const config::Experiment& experiment) {
  const config::Regression& data = experiment.data().regression();
  return fmt::format(
      "model      mixture of {} local experts of {} hidden units, {} inputs, {} outputs, sigma {}\n"
      "parameters {} in all\n",
      experiment.moe().experts(), experiment.moe().d_ff(), data.inputs(), data.outputs(),
      experiment.model().sigma(), short_count(count_parameters(experiment).total));
}

// The MoE layers that share their values.
struct LayerKind {
  std::vector<std::int64_t> blocks;
  config::Moe moe;
};

// In the order of their first blocks; one kind without moe.layers, none in a dense model.
std::vector<LayerKind> layer_kinds(const Trainer& trainer) {
  std::map<std::string, std::size_t> kind_of_values;
  std::vector<LayerKind> kinds;
  for (const auto& [block, layer] : trainer.model.moe_layers()) {
    config::Moe moe = config::moe_of_layer(trainer.experiment, block);
    const auto [kind, is_new] = kind_of_values.emplace(moe.SerializeAsString(), kinds.size());
    if (is_new) kinds.push_back({{}, std::move(moe)});
    kinds[kind->second].blocks.push_back(block);
  }
  return kinds;
}

// One line for each kind of layer, the first after `title`; where there are several, with their blocks.
template <class Text>
std::string lines_by_kind(const Trainer& trainer, const char* title, const Text& text) {
  const std::vector<LayerKind> kinds = layer_kinds(trainer);
  std::string lines;
  for (const LayerKind& kind : kinds) {
    const std::string line = text(kind);
    if (line.empty()) continue;
    const std::string where = kinds.size() == 1
                                  ? ""
                                  : fmt::format("{} {}: ", kind.blocks.size() == 1 ? "block" : "blocks",
                                                fmt::join(kind.blocks, ", "));
    lines += fmt::format("{:<11}{}{}\n", lines.empty() ? title : "", where, line);
  }
  return lines;
}

std::string feed_forward_lines(const Trainer& trainer) {
  if (trainer.model.moe_layers().empty()) {
    return fmt::format("           dense feed-forward of {}\n", trainer.experiment.model().d_ff());
  }
  return lines_by_kind(trainer, "", [](const LayerKind& kind) {
    const config::Moe& moe = kind.moe;
    return fmt::format("{} MoE layer{}: {} expert{} of {}, top-{} by {}{}", kind.blocks.size(),
                       kind.blocks.size() == 1 ? "" : "s", moe.experts(), moe.experts() == 1 ? "" : "s",
                       moe.d_ff(), moe.top_k(), config::Moe::Router_Name(moe.router()),
                       moe.shared_experts() > 0 ? fmt::format(", {} shared", moe.shared_experts()) : "");
  });
}

std::string model_lines(const Trainer& trainer) {
  if (is_regression(trainer.experiment)) return regression_lines(trainer.experiment);
  const config::Model& model = trainer.experiment.model();
  const ParameterCount count = count_parameters(trainer.experiment);
  std::string text = fmt::format(
      "model      {} layers, d_model {}, {} heads of {} ({} key/value), {} tokens of context, vocabulary "
      "{}\n",
      model.layers(), model.d_model(), model.heads(), model.head_dim(), model.kv_heads(), model.max_seq(),
      model.vocab_size());
  text += feed_forward_lines(trainer);
  text += fmt::format("parameters {} in all, {} active for a token\n", short_count(count.total),
                      short_count(count.active));
  if (const std::int64_t frozen = frozen_elements(trainer.model.parameters()); frozen > 0)
    text += fmt::format("frozen     {} of them keep their values (train.freeze)\n", short_count(frozen));
  return text;
}

std::string exchange_lines(const Trainer& trainer) {
  const std::string all = trainer.world.describe_paths();
  const Communicator& experts = trainer.grid.expert_parallel();
  std::string text = fmt::format("exchange   {}", all);
  if (experts.size() > 1 && experts.describe_paths() != all)
    text += fmt::format("; between experts {}", experts.describe_paths());
  const std::int64_t chunks = trainer.experiment.parallel().exchange_chunks();
  if (experts.size() > 1 && chunks > 1 && !trainer.model.moe_layers().empty())
    text += fmt::format("; tokens travel in {} chunks while experts compute", chunks);
  if (trainer.gradient_reduction.overlaps()) text += "; gradients are added up during backward";
  return text + "\n";
}

std::string layout_lines(const Trainer& trainer) {
  const config::Experiment& experiment = trainer.experiment;
  const int ranks = trainer.world.size();
  std::string text = fmt::format("layout     {} {}, expert_parallel_size {} x {} expert-data\n", ranks,
                                 ranks == 1 ? "rank" : "ranks", trainer.grid.expert_parallel().size(),
                                 trainer.grid.expert_data().size());
  if (ranks > 1 && !trainer.model.moe_layers().empty())
    text += trainer.grid.describe(config::most_experts(experiment));
  if (ranks > 1 && layer_kinds(trainer).size() > 1)
    text += "           experts of the largest layer; those of the others are dealt to the same ranks\n";
  if (ranks > 1) text += exchange_lines(trainer);
  const data::BatchCut cut = batch_cut(experiment, ranks);
  const std::int64_t global_batch = experiment.train().global_batch();
  if (is_regression(experiment)) {
    return text + fmt::format("batch      {} samples a step, in {} micro-batch{} of at most {} a rank\n",
                              global_batch, cut.micro_steps(), cut.micro_steps() == 1 ? "" : "es",
                              experiment.train().micro_batch());
  }
  text += fmt::format(
      "batch      {} sequences of {}{} tokens a step = {} tokens, in {} micro-batch{} of at most {} a rank\n",
      global_batch, experiment.data().samples() == config::Data::lines ? "up to " : "",
      experiment.model().max_seq(), global_batch * experiment.model().max_seq(), cut.micro_steps(),
      cut.micro_steps() == 1 ? "" : "es", experiment.train().micro_batch());
  return text;
}

std::string filled_up_text(const config::Moe& moe) {
  return moe.pad_to_capacity() ? ";\n           each expert is filled up to it with zero rows from every rank"
                               : "";
}

std::string capacity_lines(const Trainer& trainer) {
  if (is_regression(trainer.experiment)) return "";
  const std::int64_t sequences = batch_cut(trainer.experiment, trainer.world.size()).sequences(0, 0).size();
  const std::int64_t tokens = sequences * trainer.experiment.model().max_seq();
  const std::string lines = lines_by_kind(trainer, "capacity", [&](const LayerKind& kind) -> std::string {
    const config::Moe& moe = kind.moe;
    if (moe.capacity_factor() == 0) return "dropless: an expert takes every token that chooses it";
    if (moe.router() == config::Moe::expert_choice) {
      const std::int64_t length = trainer.experiment.model().max_seq();
      return fmt::format("{} of the {} tokens of a sequence, which each expert chooses (factor {}){}",
                         expert_choice_capacity(moe, length), length, moe.capacity_factor(),
                         filled_up_text(moe));
    }
    return fmt::format("{} of the {} tokens of a rank's micro-batch for each expert (factor {}, by {}){}",
                       expert_capacity(moe.capacity_factor(), tokens, moe.top_k(), moe.experts()), tokens,
                       moe.capacity_factor(), config::Moe::Drop_Name(moe.drop()), filled_up_text(moe));
  });
  return lines + (config::leaks_future(trainer.experiment)
                      ? "warning    future leak: a token's experts depend on the tokens after it "
                        "(moe.allow_future_leak); the held-out loss is no fair one\n"
                      : "");
}

std::string scope_text(config::Moe::BalanceScope scope) {
  switch (scope) {
    case config::Moe::sequence:
      return "within each sequence: the same in every layout";
    case config::Moe::batch:
      return "over a micro-batch on all ranks: results depend on how a step is cut into micro-batches";
    case config::Moe::global_batch:
      return "over the global batch so far: results depend on how a step is cut into micro-batches";
  }
  return "";
}

// What Megatron-LM calls the same token sets (--moe-router-load-balancing-type).
const char* megatron_scope(config::Moe::BalanceScope scope) {
  switch (scope) {
    case config::Moe::sequence:
      return "seq_aux_loss";
    case config::Moe::batch:
      return "aux_loss, over a rank's own micro-batch";
    case config::Moe::global_batch:
      return "global_aux_loss";
  }
  return "";
}

// The same coefficient in the constants of others, for a model of `moe_layers` MoE layers. Megatron-LM,
// MegaBlocks and OLMo sum alpha E sum f P over the layers as Conclave does; MaxText and flaxformer leave f
// undivided by top_k; Hugging Face too, and takes f and P over the tokens of all layers together, one term
// for the model: equal at perfect balance, if alpha counts for as many layers. GShard and DeepSpeed count
// first choices only.
std::string coefficient_elsewhere(const config::Moe& moe, std::size_t moe_layers) {
  const double alpha = moe.balance_loss();
  const auto top_k = static_cast<double>(moe.top_k());
  std::string text =
      fmt::format("{} in Megatron-LM ({}), MegaBlocks and OLMo", alpha, megatron_scope(moe.balance_scope()));
  text += moe.top_k() == 1
              ? fmt::format(", MaxText and flaxformer (top_k is 1)")
              : fmt::format("; {:g} in MaxText and flaxformer (f not divided by top_k)", alpha / top_k);
  text += fmt::format(";\n           {:g} in Hugging Face (one term over the tokens of all {} layers)",
                      alpha * static_cast<double>(moe_layers) / top_k, moe_layers);
  return text + (moe.top_k() == 1 ? fmt::format("; {} in GShard and DeepSpeed (as E * sum)", alpha)
                                  : fmt::format("; GShard and DeepSpeed count first choices only: {} as E * "
                                                "sum is as much at perfect balance",
                                                alpha));
}

// The terms and rules, beside the load-balance loss, that move a router.
std::string other_terms(const config::Moe& moe) {
  std::vector<std::string> terms;
  if (moe.router() == config::Moe::noisy_top_k && moe.importance_loss() > 0)
    terms.push_back(fmt::format("{} * CV^2(importance)", moe.importance_loss()));
  if (moe.router() == config::Moe::noisy_top_k && moe.load_loss() > 0)
    terms.push_back(fmt::format("{} * CV^2(load)", moe.load_loss()));
  if (moe.router() == config::Moe::sigmoid && moe.bias_update_rate() > 0)
    terms.push_back(
        fmt::format("a bias on the choice moves by {} a step toward even load", moe.bias_update_rate()));
  if (moe.z_loss() > 0) terms.push_back(fmt::format("{} * mean(log-sum-exp^2)", moe.z_loss()));
  return fmt::format("{}", fmt::join(terms, "; "));
}

std::string balance_lines(const Trainer& trainer) {
  if (is_regression(trainer.experiment)) return "";
  const std::size_t moe_layers = trainer.model.moe_layers().size();
  return lines_by_kind(trainer, "balance", [&](const LayerKind& kind) {
    const config::Moe& moe = kind.moe;
    std::vector<std::string> lines;
    if (moe.router() == config::Moe::expert_choice)
      lines.emplace_back("no load-balance term: expert_choice loads all experts alike by construction");
    if (moe.balance_loss() > 0) {
      lines.push_back(fmt::format("{} * E * sum f P a layer ({} at perfect balance), {}", moe.balance_loss(),
                                  moe.balance_loss(), scope_text(moe.balance_scope())));
      lines.push_back("the same term elsewhere: " + coefficient_elsewhere(moe, moe_layers));
    }
    if (std::string others = other_terms(moe); !others.empty()) lines.push_back(std::move(others));
    return fmt::format("{}", fmt::join(lines, "\n           "));
  });
}

std::string supervision_lines(const Trainer& trainer) {
  const config::RouterSupervision& supervision = trainer.experiment.moe().router_supervision();
  if (trainer.model.moe_layers().empty() || supervision.sources().empty()) return "";
  std::string text =
      fmt::format("supervised {} * -ln(probability of a token's own experts) a layer:", supervision.weight());
  for (const config::SourceExperts& source : supervision.sources()) {
    text += fmt::format(" {} -> {};", source.source(), fmt::join(source.experts(), ", "));
  }
  text.back() = '\n';
  return text;
}

std::string forced_balance_lines(const Trainer& trainer) {
  if (trainer.model.moe_layers().empty() || !trainer.experiment.moe().force_balanced()) return "";
  return "FORCED BALANCE (moe.force_balanced): tokens are dealt to the experts in turn, whatever the router "
         "says.\n           Good for measuring speed; losses of this run say nothing about a trained "
         "router.\n";
}

std::string device_lines(const Trainer& trainer) {
  std::string text = fmt::format("device     {}\n", describe_device(trainer.gpu));
  if (trainer.gpu != nullptr && trainer.experiment.run().cuda_graphs())
    text += "           MoE layers are recorded and launched as CUDA graphs (run.cuda_graphs)\n";
  const std::optional<Placement>& placement = trainer.device.placement;
  if (placement && placement->ranks.size() > 1) text += describe(*placement);
  return text;
}

std::string precision_line(const Trainer& trainer) {
  const bool is_bf16 = trainer.compute == DType::kBFloat16;
  const bool chosen_here = trainer.experiment.precision().compute() == config::Precision::auto_;
  return fmt::format("precision  {}{}\n",
                     is_bf16 ? "factors of products in bf16, sums, weights and updates in fp32" : "fp32",
                     !chosen_here ? ""
                     : is_bf16    ? " (auto)"
                                  : " (auto: not every rank has AVX512-BF16, or the model has no bf16)");
}

std::string export_line(const Trainer& trainer) {
  if (is_regression(trainer.experiment)) return "";
  return fmt::format("export     {}\n", describe(export_fit(trainer.experiment)));
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

// Memory and time of each value of train.recompute, the chosen one first.
std::string recompute_lines(const Trainer& trainer) {
  const config::Experiment& experiment = trainer.experiment;
  if (is_regression(experiment)) return "";
  const std::int64_t tokens =
      batch_cut(experiment, trainer.world.size()).sequences(0, 0).size() * experiment.model().max_seq();
  const ActivationMemory memory(experiment, tokens, trainer.grid.expert_parallel().size() > 1);
  const ModelFlops flops(experiment);
  const auto option = [&](config::Train::Recompute recompute) {
    const double more = flops.recomputed(recompute) / flops.training();
    return fmt::format("{}: about {:.1f} MiB{}", config::Train::Recompute_Name(recompute),
                       memory.of(recompute) / kMiB,
                       more > 0 ? fmt::format(", {:.0f}% more arithmetic", 100 * more) : "");
  };
  const config::Train::Recompute chosen = experiment.train().recompute();
  std::string others;
  for (const auto other : {config::Train::none, config::Train::experts, config::Train::block}) {
    const bool has_experts = !trainer.model.moe_layers().empty();
    if (other == chosen || (other == config::Train::experts && !has_experts)) continue;
    others += (others.empty() ? "" : "; ") + option(other);
  }
  return fmt::format("recompute  {}, kept from forward to backward ({})\n", option(chosen), others);
}

}  // namespace

std::string start_report(const Trainer& trainer) {
  return fmt::format("Conclave {}: run \"{}\" in {}\n", version(), trainer.experiment.run().name(),
                     trainer.experiment.run().dir()) +
         forced_balance_lines(trainer) + model_lines(trainer) + layout_lines(trainer) +
         capacity_lines(trainer) + balance_lines(trainer) + supervision_lines(trainer) +
         device_lines(trainer) + precision_line(trainer) + export_line(trainer) + memory_line(trainer) +
         recompute_lines(trainer) + trainer.dataset.describe();
}

}  // namespace conclave
