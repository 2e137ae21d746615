#include "trainer/metrics/specialisation.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "comm/base/error.h"
#include "trainer/metrics/table.h"

namespace conclave {
namespace {

// counts / their sum; nothing if the sum is zero.
std::vector<double> shares(const std::vector<std::int64_t>& counts) {
  const auto total = static_cast<double>(std::accumulate(counts.begin(), counts.end(), std::int64_t{0}));
  std::vector<double> result;
  for (const std::int64_t count : counts) {
    if (total > 0) result.push_back(static_cast<double>(count) / total);
  }
  return result;
}

// [sources][E] of one layer.
std::vector<std::vector<std::int64_t>> of_layer(const LoadsBySource& loads, std::size_t layer) {
  std::vector<std::vector<std::int64_t>> counts;
  for (const auto& source : loads) counts.push_back(source[layer]);
  return counts;
}

std::string layer_table(std::span<const std::string> source_names,
                        const std::vector<std::vector<std::int64_t>>& counts) {
  std::vector<std::string> header{"expert"};
  header.insert(header.end(), source_names.begin(), source_names.end());
  std::vector<std::vector<std::string>> rows(counts.front().size());
  for (std::size_t expert = 0; expert < rows.size(); ++expert) rows[expert] = {std::to_string(expert)};
  for (const auto& source : counts) {
    const std::vector<double> share = shares(source);
    const auto strongest = static_cast<std::size_t>(std::ranges::max_element(share) - share.begin());
    for (std::size_t expert = 0; expert < rows.size(); ++expert) {
      rows[expert].push_back(
          share.empty() ? "-"
                        : fmt::format("{:.1f}% {}", 100 * share[expert], expert == strongest ? '*' : ' '));
    }
  }
  return format_table(header, rows);
}

void check_sizes(std::span<const std::string> source_names, std::span<const std::int64_t> layers,
                 const LoadsBySource& loads) {
  CONCLAVE_CHECK_EQ(loads.size(), source_names.size(), "sources of the expert loads");
  for (const auto& source : loads) {
    CONCLAVE_CHECK_EQ(source.size(), layers.size(), "MoE layers of the expert loads");
    for (std::size_t layer = 0; layer < source.size(); ++layer) {
      CONCLAVE_CHECK_EQ(source[layer].size(), loads.front()[layer].size(), "experts of a layer's loads");
    }
  }
}

}  // namespace

double specialisation(const std::vector<std::vector<std::int64_t>>& counts) {
  std::vector<std::vector<double>> by_source;  // p(expert | source)
  for (const auto& source : counts) {
    if (auto share = shares(source); !share.empty()) by_source.push_back(std::move(share));
  }
  if (by_source.size() < 2) return 0;
  const auto sources = static_cast<double>(by_source.size());
  double information = 0;  // nats
  for (std::size_t expert = 0; expert < by_source.front().size(); ++expert) {
    double mean = 0;
    for (const auto& share : by_source) mean += share[expert] / sources;
    for (const auto& share : by_source) {
      if (share[expert] > 0) information += share[expert] / sources * std::log(share[expert] / mean);
    }
  }
  return information / std::log(sources);
}

std::string experts_by_source_table(std::span<const std::string> source_names,
                                    std::span<const std::int64_t> layers, const LoadsBySource& loads) {
  check_sizes(source_names, layers, loads);
  if (loads.empty()) return "";
  std::string text;
  std::string summary;
  for (std::size_t layer = 0; layer < layers.size(); ++layer) {
    const auto counts = of_layer(loads, layer);
    text +=
        fmt::format("Layer {}: share of each source's choices that an expert takes (* the strongest)\n{}\n",
                    layers[layer], layer_table(source_names, counts));
    summary += fmt::format("{}layer {} {:.1f}%", summary.empty() ? "" : ", ", layers[layer],
                           100 * specialisation(counts));
  }
  if (source_names.size() < 2) return text;
  return text +
         "Specialisation (what a token's expert says about its source, I(source; expert) / H(source)): " +
         summary + "\n";
}

}  // namespace conclave
