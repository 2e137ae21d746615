// The routing of a text as a page to read and to click through.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "trainer/html/page.h"
#include "trainer/inspect/layer_summary.h"
#include "trainer/inspect/routing_trace.h"
#include "trainer/inspect/trace_tables.h"

namespace conclave {

struct InspectPage {
  std::string title;
  std::vector<std::pair<std::string, std::string>> facts;  // name and value, below the title
  const RoutingTrace& trace;
  const std::vector<LayerSummary>& summaries;
  std::int64_t shown_tokens = 0;  // of the trace, from its start; 0: all
  LoadEvolution evolution = {};   // shown where it has several steps
};

html::Page inspect_page(const InspectPage& content);

}  // namespace conclave
