#include "configs/validate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <set>
#include <string>

#include "comm/base/error.h"
#include "configs/keys.h"
#include "configs/moe_layers.h"
#include "configs/resolve.h"
#include "configs/router_rules.h"

namespace conclave::config {

std::vector<std::string> divisors(std::int64_t number, std::int64_t largest) {
  std::vector<std::string> found;
  for (std::int64_t i = 1; i <= std::min(number, largest); ++i) {
    if (number % i == 0) found.push_back(std::to_string(i));
  }
  return found;
}

namespace {

// The multiples of `factor` around `value`: "96 or 128".
std::string multiples_around(std::int64_t value, std::int64_t factor) {
  const std::int64_t below = value / factor * factor;
  return below == 0 ? std::to_string(factor) : fmt::format("{} or {}", below, below + factor);
}

void check_heads(const Experiment& experiment, std::vector<Violation>& broken) {
  const Model& model = experiment.model();
  const std::int64_t d_model = model.d_model();
  const std::int64_t heads = model.heads();
  if (model.kv_heads() != 0 && heads % model.kv_heads() != 0) {
    broken.push_back({{"model.kv_heads", "model.heads"},
                      fmt::format("model.kv_heads: {} does not divide model.heads, {}; valid: {}",
                                  model.kv_heads(), heads, one_of(divisors(heads, heads)))});
  }
  if (model.head_dim() != 0) {
    if (model.head_dim() % 2 != 0) {
      broken.push_back(
          {{"model.head_dim"},
           fmt::format("model.head_dim: found {}, which is odd; the rotary embedding turns pairs; "
                       "valid: {} or {}",
                       model.head_dim(), model.head_dim() - 1, model.head_dim() + 1)});
    }
  } else if (d_model % heads != 0) {
    broken.push_back(
        {{"model.d_model", "model.heads", "model.head_dim"},
         fmt::format("model.d_model: {} is not a multiple of model.heads, {}, as head_dim: auto asks for; "
                     "valid: model.d_model={}, or give model.head_dim",
                     d_model, heads, multiples_around(d_model, heads))});
  } else if (d_model / heads % 2 != 0) {
    broken.push_back(
        {{"model.d_model", "model.heads", "model.head_dim"},
         fmt::format("model.d_model: {} in {} heads gives an odd head_dim, {}; the rotary embedding turns "
                     "pairs; valid: model.d_model={}, or give an even model.head_dim",
                     d_model, heads, d_model / heads, multiples_around(d_model, 2 * heads))});
  }
}

// Rules about the experts of a layer. `prefix` is where its values stand: "moe", or "moe.layers.0" where
// that changes some of them.
void check_top_k(const Moe& moe, const std::string& prefix, std::vector<Violation>& broken) {
  if (moe.router() == Moe::dense) return;  // its top_k follows from its experts
  if (moe.top_k() <= moe.experts()) return;
  broken.push_back(
      {{prefix + ".top_k", prefix + ".experts"},
       fmt::format("{0}.top_k: {1} is more than {0}.experts, {2}, and a token goes to different experts; "
                   "valid: {0}.top_k from 1 to {2}, or {0}.experts of at least {1}",
                   prefix, moe.top_k(), moe.experts())});
}

void check_shared_gate(const Moe& moe, const std::string& prefix, std::vector<Violation>& broken) {
  if (!moe.shared_gate() || moe.shared_experts() > 0) return;
  broken.push_back({{"moe.shared_gate", prefix + ".shared_experts"},
                    fmt::format("moe.shared_gate: true gates the shared experts, and {}.shared_experts is 0; "
                                "valid: {}.shared_experts of at least 1, or moe.shared_gate=false",
                                prefix, prefix)});
}

// Routers that draw one probability distribution over all experts, whose gradient the supervision joins.
bool can_be_supervised(Moe::Router router) { return router == Moe::softmax; }

void check_supervised_router(const Moe& moe, const std::string& prefix, std::vector<Violation>& broken) {
  const RouterSupervision& supervision = moe.router_supervision();
  if (supervision.sources().empty()) return;
  if (!can_be_supervised(moe.router())) {
    broken.push_back({{"moe.router_supervision", prefix + ".router"},
                      fmt::format("moe.router_supervision: {}.router: {} can't be taught; valid: softmax",
                                  prefix, Moe::Router_Name(moe.router()))});
  }
  for (int i = 0; i < supervision.sources_size(); ++i) {
    const std::string path = fmt::format("moe.router_supervision.sources.{}.experts", i);
    for (const std::int64_t expert : supervision.sources(i).experts()) {
      if (expert < moe.experts()) continue;
      broken.push_back({{path, prefix + ".experts"},
                        fmt::format("{}: {} is no expert, {}.experts is {}; valid: ids from 0 to {}", path,
                                    expert, prefix, moe.experts(), moe.experts() - 1)});
    }
  }
}

void check_forced_balance(const Moe& moe, const std::string& prefix, std::vector<Violation>& broken) {
  if (!moe.force_balanced() || moe.router() == Moe::softmax) return;
  broken.push_back(
      {{"moe.force_balanced", prefix + ".router"},
       fmt::format("moe.force_balanced: true takes the place of a softmax router's choice, and {}.router is "
                   "{}; valid: {}.router=softmax, or moe.force_balanced=false",
                   prefix, Moe::Router_Name(moe.router()), prefix)});
}

void check_moe(const Moe& moe, const std::string& prefix, std::vector<Violation>& broken) {
  check_top_k(moe, prefix, broken);
  check_shared_gate(moe, prefix, broken);
  check_supervised_router(moe, prefix, broken);
  check_forced_balance(moe, prefix, broken);
}

void check_experts(const Experiment& experiment, std::vector<Violation>& broken) {
  const Moe& moe = experiment.moe();
  if (moe.experts() == 0 || experiment.model().kind() == Model::mixture_regression) return;
  check_router(experiment, broken);
  const std::size_t faults_elsewhere = broken.size();
  check_moe(moe, "moe", broken);
  const bool is_sound = broken.size() == faults_elsewhere;  // else every override would repeat the fault
  for (int i = 0; is_sound && i < moe.layers_size(); ++i) {
    check_moe(merged(moe, moe.layers(i)), fmt::format("moe.layers.{}", i), broken);
  }
  const std::int64_t layers = experiment.model().layers();
  if (moe.every() > layers) {
    broken.push_back(
        {{"moe.every", "model.layers", "moe.experts"},
         fmt::format("moe.every: {} is more than model.layers, {}, which leaves no MoE layer; valid: "
                     "moe.every from 1 to {}, or moe.experts=0 for a dense model",
                     moe.every(), layers, layers)});
  }
}

// The values of `from` to `to` as a list of what works.
std::string from_to(std::int64_t from, std::int64_t to) {
  return from == to ? std::to_string(from) : fmt::format("from {} to {}", from, to);
}

void check_expert_groups(const Experiment& experiment, std::vector<Violation>& broken) {
  const Moe& moe = experiment.moe();
  const std::int64_t groups = moe.expert_groups();
  if (moe.experts() == 0) return;
  const bool takes_groups =
      moe.router() == Moe::softmax || moe.router() == Moe::sigmoid || moe.router() == Moe::hierarchical;
  if (groups > 1 && !takes_groups) {
    broken.push_back(
        {{"moe.expert_groups", "moe.router"},
         fmt::format(
             "moe.expert_groups: {} groups are nothing to moe.router: {}; valid: moe.expert_groups=1, "
             "or moe.router=softmax, sigmoid or hierarchical",
             groups, Moe::Router_Name(moe.router()))});
    return;
  }
  if (moe.router() == Moe::hierarchical) return;  // chooses in groups by rules of its own
  if (moe.experts() % groups != 0) {
    broken.push_back({{"moe.expert_groups", "moe.experts"},
                      fmt::format("moe.expert_groups: {} does not divide moe.experts, {}; valid: {}", groups,
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
    broken.push_back(
        {{"moe.top_groups", "moe.top_k", "moe.expert_groups"},
         fmt::format("moe.top_groups: {} of {} groups hold {} expert{}, fewer than moe.top_k, {}; valid: "
                     "moe.top_groups {}, or moe.top_k {}",
                     moe.top_groups(), groups, held, held == 1 ? "" : "s", moe.top_k(),
                     from_to(needed, groups), from_to(1, held))});
  }
}

// Keys that only the sigmoid router reads: set for another one, they would be silently nothing.
void check_sigmoid_keys(const Experiment& experiment, std::vector<Violation>& broken) {
  const Moe& moe = experiment.moe();
  const auto is_sigmoid = [](const auto& holder) { return holder.router() == Moe::sigmoid; };
  if (moe.experts() == 0 || is_sigmoid(moe) || std::ranges::any_of(moe.layers(), is_sigmoid)) return;
  const double unset = Moe::default_instance().bias_update_rate();
  if (moe.bias_update_rate() != unset) {
    broken.push_back({{"moe.bias_update_rate", "moe.router"},
                      fmt::format("moe.bias_update_rate: {} is nothing to moe.router: {}, which has no bias; "
                                  "valid: moe.router=sigmoid, or moe.bias_update_rate={}",
                                  moe.bias_update_rate(), Moe::Router_Name(moe.router()), unset)});
  }
}

// Also where only some layers choose by expert_choice.
void check_future_leak(const Experiment& experiment, std::vector<Violation>& broken) {
  const Moe& moe = experiment.moe();
  if (!experiment.model().causal() || moe.allow_future_leak()) return;
  const auto check = [&](Moe::Router router, const std::string& prefix) {
    if (router != Moe::expert_choice) return;
    broken.push_back(
        {{prefix + ".router", "model.causal", "moe.allow_future_leak"},
         fmt::format("{0}.router: expert_choice chooses a token's experts by the tokens after it, which a "
                     "causal model must not see; valid: {0}.router=softmax, model.causal=false, or "
                     "moe.allow_future_leak=true, if the held-out loss needn't be a fair one",
                     prefix)});
  };
  check(moe.router(), "moe");
  for (int i = 0; i < moe.layers_size(); ++i) {
    if (moe.layers(i).has_router()) check(moe.layers(i).router(), fmt::format("moe.layers.{}", i));
  }
}

void check_capacity(const Experiment& experiment, std::vector<Violation>& broken) {
  const Moe& moe = experiment.moe();
  if (moe.experts() == 0) return;
  const bool dropless = moe.capacity_factor() == 0;
  if (moe.pad_to_capacity() && dropless) {
    broken.push_back({{"moe.pad_to_capacity", "moe.capacity_factor"},
                      "moe.pad_to_capacity: true needs a capacity to fill up to, and moe.capacity_factor is "
                      "dropless; valid: a number such as moe.capacity_factor=1.25, or "
                      "moe.pad_to_capacity=false"});
  }
  check_future_leak(experiment, broken);
  if (moe.router() != Moe::expert_choice) return;
  if (dropless) {
    broken.push_back({{"moe.capacity_factor", "moe.router"},
                      "moe.capacity_factor: capacity with expert_choice missing: it is the number of tokens "
                      "that an expert takes, and it is dropless; valid: a number such as "
                      "moe.capacity_factor=1, or moe.router=softmax"});
  }
  if (moe.has_balance_loss() && moe.balance_loss() > 0) {
    broken.push_back(
        {{"moe.balance_loss", "moe.router"},
         fmt::format("moe.balance_loss: {} has nothing to do with expert_choice, which loads all "
                     "experts alike by construction; valid: moe.balance_loss=0",
                     number_text(moe.balance_loss()))});
  }
}

void check_samples(const Experiment& experiment, std::vector<Violation>& broken) {
  const Data& data = experiment.data();
  if (data.samples() != Data::lines) return;
  if (experiment.train().objective() == Train::masked) {
    broken.push_back(
        {{"data.samples", "train.objective"},
         "data.samples: lines have different lengths, and train.objective: masked hides as many tokens of "
         "each sample; valid: data.samples=windows, or train.objective=next_token"});
  }
  if (data.tokenizer() == Data::bytes) return;
  broken.push_back({{"data.samples", "data.tokenizer"},
                    "data.samples: lines are found in text, and data.tokenizer is pretokenized; valid: "
                    "data.samples=windows, or data.tokenizer=bytes with texts"});
}

// Every label names a source of data.train, once, and some experts.
void check_supervision(const Experiment& experiment, std::vector<Violation>& broken) {
  if (experiment.moe().experts() == 0 || experiment.model().kind() == Model::mixture_regression) return;
  const RouterSupervision& supervision = experiment.moe().router_supervision();
  std::vector<std::string> names;
  for (const Source& source : experiment.data().train()) names.push_back(source.name());
  if (supervision.weight() > 0 && supervision.sources().empty()) {
    broken.push_back({{"moe.router_supervision.sources", "moe.router_supervision.weight"},
                      "moe.router_supervision.sources: none to teach; valid: a list such as "
                      "[{source: " +
                          (names.empty() ? "text" : names.front()) + ", experts: [0, 1]}]"});
  }
  std::set<std::string> named;
  for (int i = 0; i < supervision.sources_size(); ++i) {
    const SourceExperts& label = supervision.sources(i);
    const std::string path = fmt::format("moe.router_supervision.sources.{}", i);
    if (std::ranges::find(names, label.source()) == names.end()) {
      broken.push_back({{path + ".source"},
                        fmt::format("{}.source: \"{}\" is no source of data.train; valid: {}", path,
                                    label.source(), one_of(names))});
    } else if (!named.insert(label.source()).second) {
      broken.push_back(
          {{path + ".source"},
           fmt::format("{}.source: \"{}\" was named before; valid: each source once", path, label.source())});
    }
    const std::set<std::int64_t> experts(label.experts().begin(), label.experts().end());
    if (experts.empty() || static_cast<int>(experts.size()) != label.experts_size()) {
      broken.push_back({{path + ".experts"},
                        fmt::format("{}.experts: {}; valid: one expert or more, each once", path,
                                    experts.empty() ? "missing" : "an expert is named twice")});
    }
  }
}

// The blocks of moe.layers are MoE blocks, each named once.
void check_overridden_blocks(const Experiment& experiment, std::vector<Violation>& broken) {
  const Moe& moe = experiment.moe();
  if (moe.experts() == 0 || experiment.model().kind() == Model::mixture_regression) return;
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

// Terms over a micro-batch of all ranks differ between layouts by definition.
void check_determinism(const Experiment& experiment, std::vector<Violation>& broken) {
  const Moe& moe = experiment.moe();
  if (experiment.run().determinism() != Run::cross_layout || moe.experts() == 0) return;
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

void check_vocabulary(const Experiment& experiment, std::vector<Violation>& broken) {
  const std::int64_t vocab_size = experiment.model().vocab_size();
  const bool is_bytes = experiment.data().tokenizer() == Data::bytes;
  if (!is_bytes && vocab_size == 0) {
    broken.push_back(
        {{"model.vocab_size", "data.tokenizer"},
         "model.vocab_size: auto is not enough for data.tokenizer: pretokenized; valid: the number of "
         "token ids, such as model.vocab_size=50257 for GPT-2's"});
  }
  constexpr std::int64_t kByteValues = 256;
  const bool masked = experiment.train().objective() == Train::masked;
  const std::int64_t needed = kByteValues + (masked ? 1 : 0);
  if (is_bytes && vocab_size != 0 && vocab_size < needed) {
    broken.push_back(
        {{"model.vocab_size", "data.tokenizer", "train.objective"},
         fmt::format("model.vocab_size: {} is too small for data.tokenizer: bytes{}; valid: auto, or {} or "
                     "more",
                     vocab_size, masked ? " and the mask token of train.objective: masked" : "", needed)});
  }
}

void check_sources(const Experiment& experiment, std::vector<Violation>& broken) {
  const Data& data = experiment.data();
  if (experiment.model().kind() == Model::mixture_regression) return;
  if (data.train_size() == 0) {
    broken.push_back(
        {{"data.train"},
         "data.train: no sources; valid: a list such as data.train=[{name: text, path: data/text.txt}]"});
  }
  std::map<std::string, int> first_with_name;
  double total_weight = 0;
  for (int i = 0; i < data.train_size(); ++i) {
    const Source& source = data.train(i);
    const std::string path = fmt::format("data.train.{}", i);
    total_weight += source.weight();
    if (source.path().empty()) {
      broken.push_back(
          {{path + ".path"}, path + ".path: missing; every source needs one: path: data/text.txt"});
    }
    if (source.name().empty()) {
      broken.push_back({{path + ".name"}, path + ".name: missing; every source needs one: name: text"});
    } else if (const auto [first, is_new] = first_with_name.emplace(source.name(), i); !is_new) {
      broken.push_back(
          {{path + ".name"},
           fmt::format("{}.name: \"{}\" is the name of data.train.{} too; valid: a name of its own", path,
                       source.name(), first->second)});
    }
  }
  if (!std::isfinite(total_weight)) {
    broken.push_back(
        {{"data.train"},
         "data.train: the sum of the weights is not finite; valid: weights around 1, only their ratios "
         "count"});
  }
}

void check_region(const Regression& data, int index, std::vector<Violation>& broken) {
  const Region& region = data.regions(index);
  const std::string path = fmt::format("data.regression.regions.{}", index);
  const auto check = [&](const char* key, std::int64_t found, std::int64_t needed, const char* of_what) {
    if (found == needed) return;
    broken.push_back(
        {{fmt::format("{}.{}", path, key), "data.regression.inputs", "data.regression.outputs"},
         fmt::format("{}.{}: found {} numbers; valid: {}, {}", path, key, found, needed, of_what)});
  };
  check("center", region.center_size(), data.inputs(), "one for each of data.regression.inputs");
  if (!data.path().empty()) return;
  check("slope", region.slope_size(), data.inputs() * data.outputs(),
        "data.regression.outputs x data.regression.inputs");
  check("offset", region.offset_size(), data.outputs(), "one for each of data.regression.outputs");
}

void check_regression(const Experiment& experiment, std::vector<Violation>& broken) {
  const Regression& data = experiment.data().regression();
  if (experiment.model().kind() != Model::mixture_regression) {
    if (data.path().empty() && data.regions_size() == 0) return;
    broken.push_back({{"data.regression", "model.kind"},
                      "data.regression: is for model.kind: mixture_regression only; valid: "
                      "model.kind=mixture_regression, or no data.regression"});
    return;
  }
  if (!experiment.log().routing().empty()) {
    broken.push_back(
        {{"log.routing", "model.kind"},
         "log.routing: records the experts of tokens, and model.kind: mixture_regression has none; "
         "valid: no log.routing"});
  }
  if (experiment.data().train_size() > 0) {
    broken.push_back(
        {{"data.train", "model.kind"},
         "data.train: holds texts, and model.kind: mixture_regression learns from rows of numbers; "
         "valid: data.regression in its place"});
  }
  if (experiment.moe().experts() == 0) {
    broken.push_back(
        {{"moe.experts", "model.kind"},
         "moe.experts: 0 leaves model.kind: mixture_regression nothing that answers; valid: 1 or "
         "more"});
  }
  if (experiment.moe().router() != Moe::dense) {
    broken.push_back(
        {{"moe.router", "model.kind"},
         fmt::format("moe.router: {} does not fit model.kind: mixture_regression, in which every "
                     "expert answers; valid: dense",
                     Moe::Router_Name(experiment.moe().router()))});
  }
  if (data.path().empty() && data.regions_size() == 0) {
    broken.push_back(
        {{"data.regression"},
         "data.regression: neither a file nor regions; valid: a path, or regions to make samples "
         "up from"});
  }
  std::set<std::string> names;
  for (int index = 0; index < data.regions_size(); ++index) {
    check_region(data, index, broken);
    const std::string& name = data.regions(index).name();
    if (!name.empty() && names.insert(name).second) continue;
    const std::string path = fmt::format("data.regression.regions.{}.name", index);
    broken.push_back({{path}, fmt::format("{}: \"{}\"; valid: a name of its own", path, name)});
  }
}

// A causal model can't use what follows a masked token, and one that sees the next token needn't predict it.
void check_objective(const Experiment& experiment, std::vector<Violation>& broken) {
  const bool masked = experiment.train().objective() == Train::masked;
  if (experiment.model().kind() != Model::language) return;
  if (masked != experiment.model().causal()) return;
  broken.push_back(
      {{"train.objective", "model.causal"},
       masked ? "train.objective: masked predicts tokens from both sides, and model.causal is true; valid: "
                "model.causal=false, or train.objective=next_token"
              : "model.causal: false lets every token see the next one, which train.objective: next_token "
                "predicts; valid: train.objective=masked, or model.causal=true"});
}

void check_optimization(const Experiment& experiment, std::vector<Violation>& broken) {
  const int betas_count = experiment.optim().betas_size();
  if (betas_count != 0 && betas_count != 2) {
    broken.push_back(
        {{"optim.betas"},
         fmt::format("optim.betas: found {} of them; valid: two, such as [0.9, 0.95]", betas_count)});
  }
  const std::int64_t steps = experiment.train().steps();
  const std::int64_t warmup_steps = experiment.schedule().warmup_steps();
  if (warmup_steps >= steps) {
    broken.push_back({{"schedule.warmup_steps", "train.steps"},
                      fmt::format("schedule.warmup_steps: {} is not below train.steps, {}; valid: "
                                  "schedule.warmup_steps from 0 to {}, or train.steps of at least {}",
                                  warmup_steps, steps, steps - 1, warmup_steps + 1)});
  }
}

}  // namespace

std::vector<Violation> violations(const Experiment& experiment) {
  std::vector<Violation> broken;
  check_heads(experiment, broken);
  check_experts(experiment, broken);
  check_expert_groups(experiment, broken);
  check_sigmoid_keys(experiment, broken);
  check_capacity(experiment, broken);
  check_samples(experiment, broken);
  check_overridden_blocks(experiment, broken);
  check_supervision(experiment, broken);
  check_vocabulary(experiment, broken);
  check_sources(experiment, broken);
  check_objective(experiment, broken);
  check_regression(experiment, broken);
  check_optimization(experiment, broken);
  check_determinism(experiment, broken);
  return broken;
}

void check_for_world(const Experiment& experiment, int world_size) {
  const std::int64_t size = experiment.parallel().expert_parallel_size();
  if (size == 0) return;
  const std::int64_t experts = most_experts(experiment);
  const std::int64_t largest = std::max<std::int64_t>(experts, 1);
  if (world_size % size == 0 && size <= largest) return;

  const std::string reason = world_size % size != 0
                                 ? fmt::format("does not divide the number of ranks, {}", world_size)
                             : experts == 0 ? "needs experts to share, and the model is dense"
                                            : fmt::format("is more than moe.experts, {}", experts);
  throw ConfigError(fmt::format("parallel.expert_parallel_size: {} {}; valid: {}, or auto", size, reason,
                                fmt::join(divisors(world_size, largest), ", ")));
}

}  // namespace conclave::config
