#include "configs/rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <string>

#include "configs/keys.h"

namespace conclave::config {

namespace {

// "moe.jitter: 0.1 has no effect with moe.router: hash, which ...; valid: moe.jitter=0, or another
// moe.router".
void refuse(const LayerKind& kind, const std::string& name, const std::string& value,
            const std::string& reason, const std::string& valid, std::vector<Violation>& broken) {
  const std::string key = kind.at(name);
  const std::string router = kind.at("router");
  broken.push_back({{key, router},
                    fmt::format("{0}: {1} has no effect with {2}: {3}, {4}; valid: {0}={5}, or another {2}",
                                key, value, router, Moe::Router_Name(kind.moe.router()), reason, valid)});
}

// Why a load-balance term could never move anything; empty where it can.
std::string reason_against_balance(Moe::Router router) {
  switch (router) {
    case Moe::hash:
      return "which learns nothing";
    case Moe::dense:
      return "which sends every token to all experts";
    case Moe::expert_choice:
      return "which loads all experts alike by construction";
    default:
      return "";
  }
}

void check_balance_terms(const LayerKind& kind, std::vector<Violation>& broken) {
  const Moe& moe = kind.moe;
  const std::string reason = reason_against_balance(moe.router());
  // The default is resolved to 0: only a value that was given is refused.
  if (!reason.empty() && moe.has_balance_loss() && moe.balance_loss() != 0)
    refuse(kind, "balance_loss", number_text(moe.balance_loss()), reason, "0", broken);
  if (moe.router() == Moe::hash && moe.z_loss() != 0)
    refuse(kind, "z_loss", number_text(moe.z_loss()), "which has no logits", "0", broken);
}

// Both keys follow from the router where they aren't given (resolve.cc).
void check_dense(const LayerKind& kind, std::vector<Violation>& broken) {
  constexpr std::int64_t kMostChoices = 64;  // the limit of moe.top_k
  const Moe& moe = kind.moe;
  const std::string router = kind.at("router");
  const std::string experts = kind.at("experts");
  const std::string top_k = kind.at("top_k");
  const std::string capacity_factor = kind.at("capacity_factor");
  if (moe.experts() > kMostChoices) {
    broken.push_back(
        {{experts, router},
         fmt::format("{0}: {1}: dense sends every token to all {2}; valid: {0} of at most {3}, or another "
                     "{1}",
                     experts, router, moe.experts(), kMostChoices)});
  } else if (moe.has_top_k() && moe.top_k() != moe.experts()) {
    broken.push_back({{top_k, router},
                      fmt::format("{0}: {2}, but {1}: dense sends every token to all {3} experts; valid: "
                                  "{0}={3}, or leave it out",
                                  top_k, router, moe.top_k(), moe.experts())});
  }
  if (moe.has_capacity_factor() && moe.capacity_factor() != 0) {
    broken.push_back(
        {{capacity_factor, router},
         fmt::format("{0}: {2}, but {1}: dense sends every token to all experts and may drop none; valid: "
                     "{0}=dropless, or leave it out",
                     capacity_factor, router, number_text(moe.capacity_factor()))});
  }
}

void check_gshard(const LayerKind& kind, std::vector<Violation>& broken) {
  if (kind.moe.top_k() == 2) return;
  const std::string top_k = kind.at("top_k");
  const std::string router = kind.at("router");
  broken.push_back({{top_k, router},
                    fmt::format("{0}: {2}, but {1}: gshard chooses two experts; valid: {0}=2, or another {1}",
                                top_k, router, kind.moe.top_k())});
}

void check_hierarchical(const LayerKind& kind, std::vector<Violation>& broken) {
  const std::int64_t experts = kind.moe.experts();
  const std::int64_t groups = kind.moe.expert_groups();
  const std::int64_t top_groups = kind.moe.top_groups();
  const std::int64_t top_k = kind.moe.top_k();
  const std::string router = kind.at("router");
  const std::string top_k_key = kind.at("top_k");
  if (experts % groups != 0) {
    broken.push_back({{"moe.expert_groups", kind.at("experts"), router},
                      fmt::format("moe.expert_groups: {} does not divide {}, {}; valid: {}", groups,
                                  kind.at("experts"), experts, one_of(divisors(experts, experts)))});
  } else if (top_groups > groups) {
    broken.push_back(
        {{"moe.top_groups", "moe.expert_groups", router},
         fmt::format("moe.top_groups: {} is more than moe.expert_groups, {}; valid: moe.top_groups "
                     "from 1 to {}",
                     top_groups, groups, groups)});
  } else if (top_k % top_groups != 0) {
    broken.push_back({{"moe.top_groups", top_k_key, router},
                      fmt::format("moe.top_groups: {} does not divide {}, {}, and {}: hierarchical chooses "
                                  "equally many experts in each group; valid: {}",
                                  top_groups, top_k_key, top_k, router, one_of(divisors(top_k, groups)))});
  } else if (top_k / top_groups > experts / groups) {
    broken.push_back(
        {{top_k_key, "moe.top_groups", "moe.expert_groups", router},
         fmt::format("{0}: {1} in {2} groups asks for {3} experts of a group, which has {4}; valid: {0} of "
                     "at most {5}, or more moe.top_groups",
                     top_k_key, top_k, top_groups, top_k / top_groups, experts / groups,
                     top_groups * (experts / groups))});
  }
}

// Tokens can be dealt to the experts where a router has probabilities to weigh them by and leaves some out.
void check_forced_balance(const LayerKind& kind, std::vector<Violation>& broken) {
  if (!kind.moe.force_balanced()) return;
  const std::string reason = kind.moe.router() == Moe::hash
                                 ? "which has no probabilities that dealt experts could be weighed by"
                                 : reason_against_balance(kind.moe.router());
  if (!reason.empty()) refuse(kind, "force_balanced", "true", reason, "false", broken);
}

struct UnreadKey {
  std::string name;
  std::string value;  // empty where the key isn't set
  bool (*reads)(Moe::Router);
  std::string reason;
  std::string unset;
};

}  // namespace

void check_router(const LayerKind& kind, std::vector<Violation>& broken) {
  check_balance_terms(kind, broken);
  check_forced_balance(kind, broken);
  if (kind.moe.router() == Moe::dense) check_dense(kind, broken);
  if (kind.moe.router() == Moe::gshard) check_gshard(kind, broken);
  if (kind.moe.router() == Moe::hierarchical) check_hierarchical(kind, broken);
}

void check_unread_keys(const std::vector<LayerKind>& kinds, std::vector<Violation>& broken) {
  const LayerKind& kind = kinds.front();
  const Moe& moe = kind.moe;
  const Moe& unset = Moe::default_instance();
  const auto given = [](double value, double unset_value) {
    return value == unset_value ? "" : number_text(value);
  };
  const auto takes_groups = [](Moe::Router router) {
    return router == Moe::softmax || router == Moe::sigmoid || router == Moe::hierarchical;
  };
  constexpr auto kNoGroups = "as only softmax, sigmoid and hierarchical choose in groups";
  const UnreadKey keys[] = {
      {"normalize_top_k", moe.normalize_top_k() ? "" : "false",
       [](Moe::Router router) {
         return router == Moe::softmax || router == Moe::sigmoid || router == Moe::expert_choice;
       },
       "whose weights always sum to 1", "true"},
      {"expert_groups", given(static_cast<double>(moe.expert_groups()), 1), takes_groups, kNoGroups, "1"},
      {"top_groups", given(static_cast<double>(moe.top_groups()), 1), takes_groups, kNoGroups, "1"},
      {"importance_loss", given(moe.importance_loss(), 0),
       [](Moe::Router router) { return router == Moe::noisy_top_k; }, "as only noisy_top_k has this term",
       "0"},
      {"load_loss", given(moe.load_loss(), 0), [](Moe::Router router) { return router == Moe::noisy_top_k; },
       "as only noisy_top_k has this term", "0"},
      {"bias_update_rate", given(moe.bias_update_rate(), unset.bias_update_rate()),
       [](Moe::Router router) { return router == Moe::sigmoid; }, "as only sigmoid has a bias",
       number_text(unset.bias_update_rate())},
      {"jitter", given(moe.jitter(), 0), [](Moe::Router router) { return router != Moe::hash; },
       "which doesn't look at x", "0"},
      {"router_init_std", given(std::max(moe.router_init_std(), -1.0), -1),
       [](Moe::Router router) { return router != Moe::hash; }, "which has no weights", "auto"}};
  for (const UnreadKey& key : keys) {
    const bool is_read =
        std::ranges::any_of(kinds, [&](const LayerKind& any) { return key.reads(any.moe.router()); });
    if (!key.value.empty() && !is_read) refuse(kind, key.name, key.value, key.reason, key.unset, broken);
  }
}

}  // namespace conclave::config
