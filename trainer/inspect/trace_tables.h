// The routing of a text for a terminal or a pipe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "trainer/inspect/layer_summary.h"
#include "trainer/inspect/routing_trace.h"

namespace conclave {

// How the load of the experts moved over records of several steps.
struct LoadEvolution {
  std::vector<std::int64_t> steps;
  std::vector<std::vector<std::vector<std::int64_t>>> loads;  // [layers][steps][E]
};

struct TokenTableStyle {
  bool colour = false;       // each first expert in a colour of its own (ANSI)
  std::int64_t columns = 0;  // wide at most; 0: as wide as it gets
  std::int64_t tokens = 0;   // rows at most; 0: all
};

// At most this many experts of a token and layer are listed; the others are counted and their weights added
// up.
inline constexpr std::int64_t kShownChoices = 4;

// "e3 .62 e7 .38", "e3 .20 e1 .11 e0 .10 e6 .09 +12 .50", "-" for a token without experts.
std::string choices_text(const std::vector<Choice>& choices);

// One line a token: its number, its label, and for each layer its experts with their weights. Layers that
// don't fit into the width are left out, and a line says so.
std::string token_table(const RoutingTrace& trace, const TokenTableStyle& style);

// A table of one line a layer; a line of marks by layer, one an expert, whose height is its load; the experts
// that the classes of bytes prefer; and, for several sources, experts by source.
std::string summary_tables(const RoutingTrace& trace, const std::vector<LayerSummary>& summaries);

// A line a step with the load marks and the largest load / mean of each layer.
std::string evolution_table(const LoadEvolution& evolution, const std::vector<LayerSummary>& summaries);

// One mark an expert from expert 0 on: blank for no load, then eight heights up to the largest load.
std::string load_marks(const std::vector<std::int64_t>& load);

}  // namespace conclave
