#include "trainer/inspect/trace_tables.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <optional>

#include "trainer/inspect/token_text.h"
#include "trainer/metrics/specialisation.h"
#include "trainer/metrics/table.h"

namespace conclave {
namespace {

// Of the 256-colour palette, all readable on black and on white.
constexpr std::array kColours = {167, 71, 68, 136, 133, 37, 172, 99, 64, 161, 31, 130};

// ".62", "1.0", "12".
std::string weight_text(double weight) {
  if (weight >= 9.95) return fmt::format("{:.0f}", weight);
  if (weight >= 0.995) return fmt::format("{:.1f}", weight);
  const std::string text = fmt::format("{:.2f}", weight);
  return text.starts_with("0.") ? text.substr(1) : text;  // NaN and negative weights stay as they are
}

std::string percent(double share) { return fmt::format("{:.1f}%", 100 * share); }

std::string or_dash(const std::optional<double>& value, const char* format) {
  return value ? fmt::format(fmt::runtime(format), *value) : "-";
}

// The `count` experts with the most choices, "e3 22% e7 18%"; those without any are left out.
std::string busiest(const std::vector<std::int64_t>& load, std::size_t count) {
  const auto total = static_cast<double>(std::accumulate(load.begin(), load.end(), std::int64_t{0}));
  std::vector<std::size_t> order(load.size());
  std::iota(order.begin(), order.end(), 0U);
  std::ranges::stable_sort(order, [&](std::size_t a, std::size_t b) { return load[a] > load[b]; });
  std::string text;
  for (std::size_t i = 0; i < std::min(count, order.size()) && load[order[i]] > 0; ++i) {
    text += fmt::format("{}e{} {:.0f}%", i > 0 ? " " : "", order[i],
                        100 * static_cast<double>(load[order[i]]) / total);
  }
  return text.empty() ? "-" : text;
}

std::string layer_table(const std::vector<LayerSummary>& summaries) {
  std::vector<std::vector<std::string>> rows;
  for (const LayerSummary& layer : summaries) {
    const double choices =
        static_cast<double>(layer.choices) / static_cast<double>(std::max<std::int64_t>(layer.tokens, 1));
    const auto agreement = [](std::optional<double> share) { return share ? percent(*share) : "-"; };
    rows.push_back({std::to_string(layer.block), fmt::format("{:.2f}", choices),
                    fmt::format("{:.2f}", layer.load_imbalance), fmt::format("{:.3f}", layer.load_entropy),
                    or_dash(layer.router_entropy, "{:.3f}"),
                    fmt::format("{} of {}", layer.dead_experts, layer.experts),
                    agreement(layer.agreement_by_token), agreement(layer.agreement_by_expert_before)});
  }
  return format_table({"layer", "experts/token", "load max/mean", "load entropy", "router entropy", "dead",
                       "by token", "by layer before"},
                      rows) +
         "by token, by layer before: how often a token's first expert is the usual one for its id, or for "
         "its "
         "first expert in the layer before\n";
}

std::string load_lines(const std::vector<LayerSummary>& summaries) {
  std::string text = "Load, a mark an expert from e0 on, and the busiest\n";
  for (const LayerSummary& layer : summaries) {
    text += fmt::format("layer {:<3} |{}| {}\n", layer.block, load_marks(layer.load), busiest(layer.load, 5));
  }
  return text;
}

std::string class_table(const std::vector<LayerSummary>& summaries, const RoutingTrace& trace) {
  std::array<std::int64_t, kByteClassNames.size()> tokens{};
  for (const std::int32_t token : trace.tokens) {
    if (token != kNoToken) ++tokens[static_cast<std::size_t>(byte_class(token))];
  }
  std::vector<std::string> header = {"bytes", "tokens"};
  for (const LayerSummary& layer : summaries) header.push_back(fmt::format("layer {}", layer.block));
  std::vector<std::vector<std::string>> rows;
  for (std::size_t c = 0; c < tokens.size(); ++c) {
    if (tokens[c] == 0) continue;
    rows.push_back({std::string(kByteClassNames[c]), format_count(tokens[c])});
    for (const LayerSummary& layer : summaries) rows.back().push_back(busiest(layer.load_by_class[c], 3));
  }
  return "Experts that take most of a kind of byte\n" + format_table(header, rows);
}

std::string source_tables(const std::vector<LayerSummary>& summaries, const RoutingTrace& trace) {
  std::vector<std::int64_t> blocks;
  LoadsBySource loads(trace.sources.size());
  for (const LayerSummary& layer : summaries) {
    blocks.push_back(layer.block);
    for (std::size_t s = 0; s < loads.size(); ++s) loads[s].push_back(layer.load_by_source[s]);
  }
  return experts_by_source_table(trace.sources, blocks, loads);
}

// A cell's text, and what it looks like on the screen.
struct Cell {
  std::string text;
  std::size_t columns = 0;
  std::int32_t first_expert = kNoExpert;
};

std::string padded(const Cell& cell, std::size_t columns, bool colour) {
  const std::string padding(columns - cell.columns, ' ');
  if (!colour || cell.first_expert == kNoExpert) return cell.text + padding;
  const std::size_t name = std::min(cell.text.find(' '), cell.text.size());
  const int code = kColours[static_cast<std::size_t>(cell.first_expert) % kColours.size()];
  return fmt::format("\x1b[38;5;{}m{}\x1b[0m{}{}", code, cell.text.substr(0, name), cell.text.substr(name),
                     padding);
}

}  // namespace

std::string choices_text(const std::vector<Choice>& choices) {
  std::string text;
  double others = 0;
  for (std::size_t i = 0; i < choices.size(); ++i) {
    if (i < kShownChoices) {
      text += fmt::format("{}e{} {}", i > 0 ? " " : "", choices[i].expert, weight_text(choices[i].weight));
    } else {
      others += choices[i].weight;
    }
  }
  if (choices.size() > kShownChoices)
    text += fmt::format(" +{} {}", choices.size() - kShownChoices, weight_text(others));
  return text.empty() ? "-" : text;
}

std::string token_table(const RoutingTrace& trace, const TokenTableStyle& style) {
  const std::int64_t rows = style.tokens > 0 ? std::min(style.tokens, trace.size()) : trace.size();
  const std::size_t number_columns = std::to_string(std::max<std::int64_t>(rows - 1, 0)).size();
  std::size_t label_columns = 5;
  for (std::int64_t t = 0; t < rows; ++t) {
    const std::string label = token_label(trace, trace.tokens[static_cast<std::size_t>(t)]);
    label_columns = std::max(label_columns, static_cast<std::size_t>(terminal_columns(label)));
  }

  // Cells by layer, and how many layers fit.
  std::vector<std::vector<Cell>> cells;
  std::vector<std::size_t> widths;
  std::size_t total = number_columns + 2 + label_columns;
  for (const LayerRouting& layer : trace.layers) {
    std::vector<Cell> column;
    std::size_t width = fmt::format("layer {}", layer.block).size();
    for (std::int64_t t = 0; t < rows; ++t) {
      const std::vector<Choice> choices = choices_of(layer, t);
      const std::string text = choices_text(choices);
      column.push_back({text, text.size(), choices.empty() ? kNoExpert : choices.front().expert});
      width = std::max(width, text.size());
    }
    const bool fits = style.columns == 0 || total + 2 + width <= static_cast<std::size_t>(style.columns);
    if (!fits && !cells.empty()) break;
    total += 2 + width;
    cells.push_back(std::move(column));
    widths.push_back(width);
  }

  std::string table = std::string(number_columns, ' ') + "  " + fmt::format("{:<{}}", "token", label_columns);
  for (std::size_t i = 0; i < cells.size(); ++i)
    table += "  " + fmt::format("{:<{}}", fmt::format("layer {}", trace.layers[i].block), widths[i]);
  table.erase(table.find_last_not_of(' ') + 1);
  table += "\n" + std::string(total, '-') + "\n";
  std::int32_t source = trace.sources.size() > 1 ? -1 : 0;
  for (std::int64_t t = 0; t < rows; ++t) {
    const auto index = static_cast<std::size_t>(t);
    if (trace.source_of_token[index] != source) {
      source = trace.source_of_token[index];
      table += trace.sources[static_cast<std::size_t>(source)] + "\n";
    }
    const std::string label = token_label(trace, trace.tokens[index]);
    const std::string padding(label_columns - static_cast<std::size_t>(terminal_columns(label)), ' ');
    std::string line = fmt::format("{:>{}}  {}{}", t, number_columns, label, padding);
    for (std::size_t i = 0; i < cells.size(); ++i)
      line += "  " + padded(cells[i][index], widths[i], style.colour);
    line.erase(line.find_last_not_of(' ') + 1);
    table += line + "\n";
  }
  if (rows < trace.size())
    table += fmt::format("({} more tokens; --max-tokens says how many)\n", trace.size() - rows);
  if (cells.size() < trace.layers.size()) {
    table += fmt::format("(layers from {} on don't fit into {} columns: choose some by --layers)\n",
                         trace.layers[cells.size()].block, style.columns);
  }
  return table;
}

std::string summary_tables(const RoutingTrace& trace, const std::vector<LayerSummary>& summaries) {
  std::string text = layer_table(summaries) + "\n" + load_lines(summaries);
  if (trace.tokens_are_bytes) text += "\n" + class_table(summaries, trace);
  if (trace.sources.size() > 1) text += "\n" + source_tables(summaries, trace);
  return text;
}

std::string evolution_table(const LoadEvolution& evolution, const std::vector<LayerSummary>& summaries) {
  std::vector<std::string> header = {"step"};
  for (const LayerSummary& layer : summaries) {
    header.push_back(fmt::format("layer {}", layer.block));
    header.push_back("max/mean");
  }
  std::vector<std::vector<std::string>> rows;
  for (std::size_t s = 0; s < evolution.steps.size(); ++s) {
    rows.push_back({format_count(evolution.steps[s])});
    for (const auto& loads : evolution.loads) {
      const double mean =
          static_cast<double>(std::accumulate(loads[s].begin(), loads[s].end(), std::int64_t{0})) /
          static_cast<double>(loads[s].size());
      rows.back().push_back("|" + load_marks(loads[s]) + "|");
      rows.back().push_back(
          mean > 0 ? fmt::format("{:.2f}", static_cast<double>(std::ranges::max(loads[s])) / mean) : "-");
    }
  }
  return "Load over the recorded steps\n" + format_table(header, rows);
}

std::string load_marks(const std::vector<std::int64_t>& load) {
  constexpr std::array kMarks = {" ",      "\u2581", "\u2582", "\u2583", "\u2584",
                                 "\u2585", "\u2586", "\u2587", "\u2588"};
  const std::int64_t most = load.empty() ? 0 : std::ranges::max(load);
  std::string marks;
  for (const std::int64_t choices : load) {
    // Rounded up: a blank means none at all.
    const std::int64_t height = choices > 0 ? (8 * choices + most - 1) / most : 0;
    marks += kMarks[static_cast<std::size_t>(height)];
  }
  return marks;
}

}  // namespace conclave
