// A made-up routing of four bytes by two layers: four experts and two places, then three experts and three
// places.
#pragma once

#include "trainer/inspect/routing_trace.h"

namespace conclave::test {

inline RoutingTrace small_trace() {
  RoutingTrace trace;
  trace.tokens = {'a', 'B', '\n', 0xC3};
  trace.sources = {"text"};
  trace.source_of_token = {0, 0, 0, 0};
  LayerRouting two_of_four;
  two_of_four.block = 0;
  two_of_four.experts = 4;
  two_of_four.places = 2;
  two_of_four.chosen = {3, 1, 0, 3, kNoExpert, kNoExpert, 3, kNoExpert};
  two_of_four.weights = {0.75F, 0.25F, 0.4F, 0.6F, 0, 0, 1.0F, 0};
  two_of_four.entropy = {0, 0.7F, 1.3862944F, 0.1F};  // of at most ln 4 = 1.3862944
  LayerRouting all_of_three;
  all_of_three.block = 2;
  all_of_three.experts = 3;
  all_of_three.places = 3;
  all_of_three.chosen = {0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2};
  all_of_three.weights = {0.5F, 0.3F, 0.2F, 0.1F, 0.1F, 0.8F, 0.3F, 0.4F, 0.3F, 1.0F, 0, 0};
  trace.layers = {two_of_four, all_of_three};
  return trace;
}

}  // namespace conclave::test
