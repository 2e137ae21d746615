// Which expert took which kind of text.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace conclave {

// Counts [sources][MoE layers][E]: how often the tokens of a source chose an expert, before drops.
using LoadsBySource = std::vector<std::vector<std::vector<std::int64_t>>>;

// How much the expert of a token says about its source: I(source; expert) / H(source), with every source
// weighted alike however many tokens it has. 0: every expert takes the same share of each source; 1: the
// expert gives the source away. `counts` is [sources][E]; sources without tokens are left out. 0 if fewer
// than two have any.
double specialisation(const std::vector<std::vector<std::int64_t>>& counts);

// For each MoE layer a table of experts by sources: the share of each source's choices that went to the
// expert (a column adds up to 100%), the strongest of a column marked "*"; then one line a layer with its
// specialisation. `layers` are the blocks' indices, for the headings. Throws Error if the sizes disagree.
std::string experts_by_source_table(std::span<const std::string> source_names,
                                    std::span<const std::int64_t> layers, const LoadsBySource& loads);

}  // namespace conclave
