// Every router by its definition: what it chooses, weighs and adds to the loss, in double precision, and what
// the complex step makes of it.
#pragma once

#include "tests/support/router_case.h"

namespace conclave::test {

// Compares choices, weights, loss terms and all gradients of the case's router with its definition, for any
// router but `hash`, which learns nothing. Scope `sequence`. dweights of places that stay empty become 0.
void expect_matches_definition(RouterCase& c);

// The routers it knows.
inline const std::vector<config::Moe::Router> kLearningRouters = {
    config::Moe::softmax,     config::Moe::sigmoid,      config::Moe::dense,        config::Moe::gshard,
    config::Moe::noisy_top_k, config::Moe::hierarchical, config::Moe::expert_choice};

// A small experiment of the router with every loss term that it has, of E experts and, where the router
// leaves that open, K = top_k: dense and expert_choice have K = E places, gshard 2. The hierarchical router
// has E / 2 groups, of which K / 2, or one, are chosen.
config::Experiment router_experiment(config::Moe::Router router, std::int64_t experts = 6,
                                     std::int64_t top_k = 2);

}  // namespace conclave::test
