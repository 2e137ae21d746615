// The routing of a text for other programs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "trainer/inspect/layer_summary.h"
#include "trainer/inspect/routing_trace.h"

namespace conclave {

// One JSON object, a line a token:
//   {"title": ..., "layers": [{"layer": 0, "experts": 16, "load": [...], "load_entropy": ..., ...}, ...],
//    "tokens": [{"id": 71, "text": "G", "source": "kjv", "layers": [[[3, 0.62], [7, 0.38]], ...]}, ...]}
// with all experts of a token as [expert, weight], the largest weight first. At most `max_tokens` tokens (0:
// all).
std::string inspect_json(const std::string& title, const RoutingTrace& trace,
                         const std::vector<LayerSummary>& summaries, std::int64_t max_tokens);

}  // namespace conclave
