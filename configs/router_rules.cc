#include "configs/router_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <string>

#include "configs/keys.h"

namespace conclave::config {

namespace {

std::string router_name(const Moe& moe) { return Moe::Router_Name(moe.router()); }

// "moe.jitter: 0.1 has no effect with moe.router: hash, which ...; valid: moe.jitter=0, or another router".
void refuse(const Moe& moe, const std::string& key, const std::string& value, const std::string& reason,
            const std::string& valid, std::vector<Violation>& broken) {
  broken.push_back(
      {{key, "moe.router"},
       fmt::format("{}: {} has no effect with moe.router: {}, {}; valid: {}, or another moe.router", key,
                   value, router_name(moe), reason, valid)});
}

// Terms that could never move anything.
void check_balance_terms(const Moe& moe, std::vector<Violation>& broken) {
  const bool is_hash = moe.router() == Moe::hash;
  if (is_hash || moe.router() == Moe::dense) {
    // The default is resolved to 0: only a value that was given is refused.
    if (moe.has_balance_loss() && moe.balance_loss() != 0) {
      refuse(moe, "moe.balance_loss", number_text(moe.balance_loss()),
             is_hash ? "which learns nothing" : "which sends every token to all experts",
             "moe.balance_loss=0", broken);
    }
  }
  if (is_hash && moe.z_loss() != 0) {
    refuse(moe, "moe.z_loss", number_text(moe.z_loss()), "which has no logits", "moe.z_loss=0", broken);
  }
  if (moe.router() == Moe::noisy_top_k) return;
  constexpr auto kReason = "as only noisy_top_k has this term";
  if (moe.importance_loss() != 0) {
    refuse(moe, "moe.importance_loss", number_text(moe.importance_loss()), kReason, "moe.importance_loss=0",
           broken);
  }
  if (moe.load_loss() != 0) {
    refuse(moe, "moe.load_loss", number_text(moe.load_loss()), kReason, "moe.load_loss=0", broken);
  }
}

void check_weights(const Moe& moe, std::vector<Violation>& broken) {
  switch (moe.router()) {
    case Moe::noisy_top_k:
    case Moe::gshard:
    case Moe::hash:
    case Moe::dense:
    case Moe::hierarchical:
      if (!moe.normalize_top_k()) {
        refuse(moe, "moe.normalize_top_k", "false", "whose weights always sum to 1",
               "moe.normalize_top_k=true", broken);
      }
      return;
    default:
      return;
  }
}

void check_hash(const Moe& moe, std::vector<Violation>& broken) {
  if (moe.jitter() != 0) {
    refuse(moe, "moe.jitter", number_text(moe.jitter()), "which doesn't look at x", "moe.jitter=0", broken);
  }
  if (moe.router_init_std() >= 0) {
    refuse(moe, "moe.router_init_std", number_text(moe.router_init_std()), "which has no weights",
           "moe.router_init_std=auto", broken);
  }
}

// Both keys follow from the router where they aren't given (resolve.cc).
void check_dense(const Moe& moe, std::vector<Violation>& broken) {
  constexpr std::int64_t kMostChoices = 64;  // the limit of moe.top_k
  if (moe.experts() > kMostChoices) {
    broken.push_back(
        {{"moe.experts", "moe.router"},
         fmt::format("moe.experts: moe.router: dense sends every token to all {}; valid: moe.experts of at "
                     "most {}, or another moe.router",
                     moe.experts(), kMostChoices)});
  } else if (moe.has_top_k() && moe.top_k() != moe.experts()) {
    broken.push_back({{"moe.top_k", "moe.router"},
                      fmt::format("moe.top_k: {}, but moe.router: dense sends every token to all {} experts; "
                                  "valid: moe.top_k={}, or leave it out",
                                  moe.top_k(), moe.experts(), moe.experts())});
  }
  if (moe.has_capacity_factor() && moe.capacity_factor() != 0) {
    broken.push_back(
        {{"moe.capacity_factor", "moe.router"},
         fmt::format(
             "moe.capacity_factor: {}, but moe.router: dense sends every token to all experts and may "
             "drop none; valid: moe.capacity_factor=dropless, or leave it out",
             number_text(moe.capacity_factor()))});
  }
}

void check_gshard(const Moe& moe, std::vector<Violation>& broken) {
  if (moe.top_k() == 2) return;
  broken.push_back(
      {{"moe.top_k", "moe.router"},
       fmt::format("moe.top_k: {}, but moe.router: gshard chooses two experts; valid: moe.top_k=2, "
                   "or another moe.router",
                   moe.top_k())});
}

void check_hierarchical(const Moe& moe, std::vector<Violation>& broken) {
  const std::int64_t experts = moe.experts();
  const std::int64_t groups = moe.expert_groups();
  const std::int64_t top_groups = moe.top_groups();
  const std::int64_t top_k = moe.top_k();
  if (experts % groups != 0) {
    broken.push_back({{"moe.expert_groups", "moe.experts", "moe.router"},
                      fmt::format("moe.expert_groups: {} does not divide moe.experts, {}; valid: {}", groups,
                                  experts, one_of(divisors(experts, experts)))});
  } else if (top_groups > groups) {
    broken.push_back(
        {{"moe.top_groups", "moe.expert_groups", "moe.router"},
         fmt::format("moe.top_groups: {} is more than moe.expert_groups, {}; valid: moe.top_groups "
                     "from 1 to {}",
                     top_groups, groups, groups)});
  } else if (top_k % top_groups != 0) {
    broken.push_back(
        {{"moe.top_groups", "moe.top_k", "moe.router"},
         fmt::format("moe.top_groups: {} does not divide moe.top_k, {}, and moe.router: hierarchical chooses "
                     "equally many experts in each group; valid: {}",
                     top_groups, top_k, one_of(divisors(top_k, groups)))});
  } else if (top_k / top_groups > experts / groups) {
    broken.push_back(
        {{"moe.top_k", "moe.top_groups", "moe.expert_groups", "moe.router"},
         fmt::format("moe.top_k: {} in {} groups asks for {} experts of a group, which has {}; valid: "
                     "moe.top_k of at most {}, or more moe.top_groups",
                     top_k, top_groups, top_k / top_groups, experts / groups,
                     top_groups * (experts / groups))});
  }
}

}  // namespace

void check_router(const Experiment& experiment, std::vector<Violation>& broken) {
  const Moe& moe = experiment.moe();
  check_balance_terms(moe, broken);
  check_weights(moe, broken);
  if (moe.router() == Moe::hash) check_hash(moe, broken);
  if (moe.router() == Moe::dense) check_dense(moe, broken);
  if (moe.router() == Moe::gshard) check_gshard(moe, broken);
  if (moe.router() == Moe::hierarchical) check_hierarchical(moe, broken);
}

}  // namespace conclave::config
