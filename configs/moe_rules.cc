#include "configs/rules.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>

#include "configs/keys.h"
#include "configs/resolve.h"

namespace conclave::config {
namespace {

void check_top_k(const LayerKind& kind, std::vector<Violation>& broken) {
  if (kind.moe.router() == Moe::dense) return;  // its top_k follows from its experts
  if (kind.moe.top_k() <= kind.moe.experts()) return;
  broken.push_back(
      {{kind.at("top_k"), kind.at("experts")},
       fmt::format("{0}: {2} is more than {1}, {3}, and a token goes to different experts; valid: {0} from 1 "
                   "to {3}, or {1} of at least {2}",
                   kind.at("top_k"), kind.at("experts"), kind.moe.top_k(), kind.moe.experts())});
}

void check_shared_gate(const LayerKind& kind, std::vector<Violation>& broken) {
  if (!kind.moe.shared_gate() || kind.moe.shared_experts() > 0) return;
  const std::string shared_experts = kind.at("shared_experts");
  broken.push_back({{"moe.shared_gate", shared_experts},
                    fmt::format("moe.shared_gate: true gates the shared experts, and {0} is 0; valid: {0} of "
                                "at least 1, or moe.shared_gate=false",
                                shared_experts)});
}

// The values of `from` to `to` as a list of what works.
std::string from_to(std::int64_t from, std::int64_t to) {
  return from == to ? std::to_string(from) : fmt::format("from {} to {}", from, to);
}

// Of routers softmax and sigmoid; the hierarchical one chooses in groups by rules of its own.
void check_group_limit(const LayerKind& kind, std::vector<Violation>& broken) {
  const Moe& moe = kind.moe;
  if (moe.router() != Moe::softmax && moe.router() != Moe::sigmoid) return;
  const std::int64_t groups = moe.expert_groups();
  if (moe.experts() % groups != 0) {
    broken.push_back(
        {{"moe.expert_groups", kind.at("experts")},
         fmt::format("moe.expert_groups: {} does not divide {}, {}; valid: {}", groups, kind.at("experts"),
                     moe.experts(), one_of(divisors(moe.experts(), moe.experts())))});
    return;
  }
  if (moe.top_groups() > groups) {
    broken.push_back({{"moe.top_groups", "moe.expert_groups"},
                      fmt::format("moe.top_groups: {} is more than moe.expert_groups, {}; valid: "
                                  "moe.top_groups {}, or moe.expert_groups of at least {}",
                                  moe.top_groups(), groups, from_to(1, groups), moe.top_groups())});
    return;
  }
  const std::int64_t group_size = moe.experts() / groups;
  const std::int64_t held = moe.top_groups() * group_size;
  const std::int64_t needed = (moe.top_k() + group_size - 1) / group_size;
  if (moe.top_groups() < needed && moe.top_k() <= moe.experts()) {
    const std::string top_k = kind.at("top_k");
    broken.push_back({{"moe.top_groups", top_k, "moe.expert_groups"},
                      fmt::format("moe.top_groups: {} of {} groups hold {} expert{}, fewer than {}, {}; "
                                  "valid: moe.top_groups {}, or {} {}",
                                  moe.top_groups(), groups, held, held == 1 ? "" : "s", top_k, moe.top_k(),
                                  from_to(needed, groups), top_k, from_to(1, held))});
  }
}

void check_capacity(const LayerKind& kind, std::vector<Violation>& broken) {
  if (kind.moe.capacity_factor() != 0) return;
  const std::string capacity_factor = kind.at("capacity_factor");
  if (kind.moe.pad_to_capacity()) {
    broken.push_back({{"moe.pad_to_capacity", capacity_factor},
                      fmt::format("moe.pad_to_capacity: true needs a capacity to fill up to, and {0} is "
                                  "dropless; valid: a number such as {0}=1.25, or moe.pad_to_capacity=false",
                                  capacity_factor)});
  }
  if (kind.moe.router() == Moe::expert_choice) {
    broken.push_back(
        {{capacity_factor, kind.at("router")},
         fmt::format("{0}: capacity with expert_choice missing: it is the number of tokens that an expert "
                     "takes, and it is dropless; valid: a number such as {0}=1, or {1}=softmax",
                     capacity_factor, kind.at("router"))});
  }
}

void check_future_leak(const Experiment& experiment, const LayerKind& kind, std::vector<Violation>& broken) {
  if (kind.moe.router() != Moe::expert_choice || !experiment.model().causal() ||
      kind.moe.allow_future_leak()) {
    return;
  }
  broken.push_back(
      {{kind.at("router"), "model.causal", "moe.allow_future_leak"},
       fmt::format("{0}: expert_choice chooses a token's experts by the tokens after it, which a causal "
                   "model must not see; valid: {0}=softmax, model.causal=false, or "
                   "moe.allow_future_leak=true, if the held-out loss needn't be a fair one",
                   kind.at("router"))});
}

// Terms over a micro-batch of all ranks differ between layouts by definition.
void check_determinism(const Experiment& experiment, const LayerKind& kind, std::vector<Violation>& broken) {
  Moe moe = kind.moe;
  resolve_router(moe);
  if (experiment.run().determinism() != Run::cross_layout) return;
  const bool has_terms = moe.balance_loss() != 0 || moe.importance_loss() != 0 || moe.load_loss() != 0;
  if (!has_terms || moe.balance_scope() == Moe::sequence) return;
  broken.push_back(
      {{"run.determinism", "moe.balance_scope"},
       fmt::format(
           "run.determinism: cross_layout, and moe.balance_scope: {} is taken over a micro-batch of all "
           "ranks, which is another one in each layout; valid: moe.balance_scope=sequence, or "
           "run.determinism=same_layout",
           Moe::BalanceScope_Name(moe.balance_scope()))});
}

void check_kind(const Experiment& experiment, const LayerKind& kind, std::vector<Violation>& broken) {
  check_top_k(kind, broken);
  check_router(kind, broken);
  check_group_limit(kind, broken);
  check_capacity(kind, broken);
  check_future_leak(experiment, kind, broken);
  check_shared_gate(kind, broken);
  check_supervised_layers(kind, broken);
  check_determinism(experiment, kind, broken);
}

void check_every(const Experiment& experiment, std::vector<Violation>& broken) {
  const std::int64_t layers = experiment.model().layers();
  const std::int64_t every = experiment.moe().every();
  if (every <= layers) return;
  broken.push_back(
      {{"moe.every", "model.layers", "moe.experts"},
       fmt::format("moe.every: {} is more than model.layers, {}, which leaves no MoE layer; valid: "
                   "moe.every from 1 to {}, or moe.experts=0 for a dense model",
                   every, layers, layers)});
}

// The blocks of moe.layers are MoE blocks, each named once.
void check_overridden_blocks(const Experiment& experiment, std::vector<Violation>& broken) {
  const Moe& moe = experiment.moe();
  std::vector<std::string> moe_blocks;
  for (std::int64_t block = 0; block < experiment.model().layers(); ++block) {
    if (is_moe_layer(experiment, block)) moe_blocks.push_back(std::to_string(block));
  }
  std::map<std::int64_t, std::string> named_at;
  for (int i = 0; i < moe.layers_size(); ++i) {
    const std::string path = fmt::format("moe.layers.{}.blocks", i);
    const auto fail = [&](const std::string& what) {
      broken.push_back({{path},
                        fmt::format("{}: {}; valid: some of the MoE layers' blocks, {}", path, what,
                                    fmt::join(moe_blocks, ", "))});
    };
    if (moe.layers(i).blocks_size() == 0) fail("missing");
    for (const std::int64_t block : moe.layers(i).blocks()) {
      const auto [first, is_new] = named_at.emplace(block, path);
      if (block >= experiment.model().layers()) {
        fail(fmt::format("{} is beyond the last of {} blocks (model.layers)", block,
                         experiment.model().layers()));
      } else if (!is_moe_layer(experiment, block)) {
        fail(fmt::format("block {} is no MoE layer with moe.every={}", block, moe.every()));
      } else if (!is_new) {
        fail(fmt::format("block {} is named twice, first in {}", block, first->second));
      }
    }
  }
}

}  // namespace

void check_moe(const Experiment& experiment, std::vector<Violation>& broken) {
  if (experiment.model().kind() == Model::mixture_regression) return;  // has rules of its own
  const std::vector<LayerKind> kinds = layer_kinds(experiment);
  check_unread_keys(kinds, broken);
  const std::size_t faults_elsewhere = broken.size();
  for (const LayerKind& kind : kinds) {
    check_kind(experiment, kind, broken);
    if (kind.prefix == "moe" && broken.size() > faults_elsewhere) break;  // every override would repeat it
  }
  check_every(experiment, broken);
  check_overridden_blocks(experiment, broken);
  check_supervision(experiment, broken);
}

}  // namespace conclave::config
