#include "configs/rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <set>
#include <string>

#include "configs/keys.h"

namespace conclave::config {

// Every label names a source of data.train, once, and some experts.
void check_supervision(const Experiment& experiment, std::vector<Violation>& broken) {
  const RouterSupervision& supervision = experiment.moe().router_supervision();
  std::vector<std::string> names;
  for (const Source& source : experiment.data().train()) names.push_back(source.name());
  if (supervision.weight() > 0 && supervision.sources().empty()) {
    broken.push_back({{"moe.router_supervision.sources", "moe.router_supervision.weight"},
                      "moe.router_supervision.sources: none to teach; valid: a list such as "
                      "[{source: " +
                          (names.empty() ? "text" : names.front()) + ", experts: [0, 1]}]"});
  }
  std::set<std::string> named;
  for (int i = 0; i < supervision.sources_size(); ++i) {
    const SourceExperts& label = supervision.sources(i);
    const std::string path = fmt::format("moe.router_supervision.sources.{}", i);
    if (std::ranges::find(names, label.source()) == names.end()) {
      broken.push_back({{path + ".source"},
                        fmt::format("{}.source: \"{}\" is no source of data.train; valid: {}", path,
                                    label.source(), one_of(names))});
    } else if (!named.insert(label.source()).second) {
      broken.push_back(
          {{path + ".source"},
           fmt::format("{}.source: \"{}\" was named before; valid: each source once", path, label.source())});
    }
    const std::set<std::int64_t> experts(label.experts().begin(), label.experts().end());
    if (experts.empty() || static_cast<int>(experts.size()) != label.experts_size()) {
      broken.push_back({{path + ".experts"},
                        fmt::format("{}.experts: {}; valid: one expert or more, each once", path,
                                    experts.empty() ? "missing" : "an expert is named twice")});
    }
  }
}

void check_supervised_layers(const LayerKind& kind, std::vector<Violation>& broken) {
  const RouterSupervision& supervision = kind.moe.router_supervision();
  if (supervision.sources().empty()) return;
  if (kind.moe.router() == Moe::hash) {
    broken.push_back(
        {{"moe.router_supervision", kind.at("router")},
         fmt::format("moe.router_supervision: {0}: hash learns nothing and can't be taught; valid: any other "
                     "{0}, such as softmax, or no moe.router_supervision",
                     kind.at("router"))});
  }
  for (int i = 0; i < supervision.sources_size(); ++i) {
    const std::string path = fmt::format("moe.router_supervision.sources.{}.experts", i);
    for (const std::int64_t expert : supervision.sources(i).experts()) {
      if (expert < kind.moe.experts()) continue;
      broken.push_back({{path, kind.at("experts")},
                        fmt::format("{}: {} is no expert, {} is {}; valid: ids from 0 to {}", path, expert,
                                    kind.at("experts"), kind.moe.experts(), kind.moe.experts() - 1)});
    }
  }
}

}  // namespace conclave::config
