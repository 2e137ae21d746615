#include "comm/device_choice.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "comm/base/error.h"

namespace conclave {
namespace {

// The ranks of one node that have no GPU yet, dealt to its GPUs so that none has two: as many as possible.
class Round {
 public:
  explicit Round(std::span<const RankGpus> ranks) : ranks_(ranks) {}

  // True if `rank` has got one, which may move others to other GPUs.
  bool place(int rank) {
    for (const std::string& gpu : gpus_of(rank)) {
      if (user_of_.emplace(gpu, rank).second) return true;
    }
    std::set<std::string> asked;
    return place_by_moving(rank, asked);
  }

  const std::map<std::string, int>& user_of() const { return user_of_; }

 private:
  const std::vector<std::string>& gpus_of(int rank) const {
    return ranks_[static_cast<std::size_t>(rank)].pci_bus_ids;
  }

  // An augmenting path of the bipartite matching of ranks and GPUs.
  bool place_by_moving(int rank, std::set<std::string>& asked) {
    for (const std::string& gpu : gpus_of(rank)) {
      if (!asked.insert(gpu).second) continue;
      const auto user = user_of_.find(gpu);
      if (user == user_of_.end() || place_by_moving(user->second, asked)) {
        user_of_[gpu] = rank;
        return true;
      }
    }
    return false;
  }

  std::span<const RankGpus> ranks_;
  std::map<std::string, int> user_of_;
};

std::string sharing_refused(std::span<const RankGpus> ranks, const std::vector<int>& members) {
  std::set<std::string> gpus;
  for (const int rank : members) {
    const auto& seen = ranks[static_cast<std::size_t>(rank)].pci_bus_ids;
    gpus.insert(seen.begin(), seen.end());
  }
  return fmt::format(
      "node {} has {} ranks and {} GPU{} that they may use: start at most one rank a GPU there, or set "
      "run.allow_gpu_sharing: true, and ranks share them, which costs speed",
      ranks[static_cast<std::size_t>(members.front())].host, members.size(), gpus.size(),
      gpus.size() == 1 ? "" : "s");
}

}  // namespace

std::vector<int> choose_gpus(std::span<const RankGpus> ranks, bool allow_sharing) {
  std::map<int, std::vector<int>> members_of;  // the ranks of each node
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
    if (ranks[rank].pci_bus_ids.empty()) {
      throw ConfigError(
          fmt::format("rank {} on node {} sees no GPU: start ranks only where there is one (nvidia-smi and "
                      "`conclave doctor` "
                      "show them; CUDA_VISIBLE_DEVICES may hide them), or set run.device: cpu",
                      rank, ranks[rank].host));
    }
    members_of[ranks[rank].node].push_back(static_cast<int>(rank));
  }

  std::vector<int> chosen(ranks.size(), -1);
  for (const auto& [node, members] : members_of) {
    std::vector<int> waiting = members;
    while (!waiting.empty()) {
      Round round(ranks);
      std::vector<int> left_over;
      for (const int rank : waiting) {
        if (!round.place(rank)) left_over.push_back(rank);
      }
      if (!left_over.empty() && !allow_sharing) throw ConfigError(sharing_refused(ranks, members));
      for (const auto& [gpu, rank] : round.user_of()) {
        const auto& seen = ranks[static_cast<std::size_t>(rank)].pci_bus_ids;
        chosen[static_cast<std::size_t>(rank)] =
            static_cast<int>(std::ranges::find(seen, gpu) - seen.begin());
      }
      waiting = std::move(left_over);
    }
  }
  return chosen;
}

}  // namespace conclave
