#include <fmt/format.h>

#include <string>

#include "configs/rules.h"

namespace conclave::config {
namespace {

// A graph repeats the numbers that its kernels were given, and nothing in it waits for the host.
void check_replayable(const LayerKind& kind, std::vector<Violation>& broken) {
  const auto refuse = [&](const std::string& key, const std::string& why, const std::string& valid) {
    broken.push_back(
        {{"run.cuda_graphs", key},
         fmt::format("run.cuda_graphs: true, and {}; valid: {}, or run.cuda_graphs=false", why, valid)});
  };
  const Moe& moe = kind.moe;
  const std::string router = kind.at("router");
  if (moe.router() == Moe::noisy_top_k || moe.router() == Moe::gshard) {
    refuse(router,
           fmt::format("{}: {} draws other numbers in each step", router, Moe::Router_Name(moe.router())),
           router + "=softmax");
  }
  if (moe.router() == Moe::hash)
    refuse(router, router + ": hash looks at the tokens' ids, which the host brings", router + "=softmax");
  if (moe.router_supervision().weight() > 0)
    refuse("moe.router_supervision.weight", "moe.router_supervision compares on the host",
           "moe.router_supervision.weight=0");
  if (moe.jitter() > 0) refuse("moe.jitter", "moe.jitter draws other numbers in each step", "moe.jitter=0");
  if (moe.expert_dropout() > 0)
    refuse("moe.expert_dropout", "moe.expert_dropout draws other numbers in each step",
           "moe.expert_dropout=0");
  if (moe.force_balanced())
    refuse("moe.force_balanced", "moe.force_balanced deals by the number of the token",
           "moe.force_balanced=false");
}

}  // namespace

void check_cuda_graphs(const Experiment& experiment, std::vector<Violation>& broken) {
  if (!experiment.run().cuda_graphs()) return;
  if (experiment.moe().experts() == 0 || !experiment.moe().pad_to_capacity() ||
      experiment.model().kind() == Model::mixture_regression) {
    broken.push_back({{"run.cuda_graphs", "moe.pad_to_capacity"},
                      "run.cuda_graphs: true records MoE layers whose shapes stay the same, and there are "
                      "none; valid: moe.pad_to_capacity=true with moe.capacity_factor a number such as 1.25, "
                      "or run.cuda_graphs=false"});
    return;
  }
  if (experiment.data().samples() == Data::lines) {
    broken.push_back({{"run.cuda_graphs", "data.samples"},
                      "run.cuda_graphs: true, and data.samples: lines pads each micro-batch in another way; "
                      "valid: data.samples=windows, or run.cuda_graphs=false"});
  }
  if (experiment.train().recompute() == Train::block) {
    broken.push_back(
        {{"run.cuda_graphs", "train.recompute"},
         "run.cuda_graphs: true, and train.recompute: block runs each forward twice, at "
         "different places of the memory; valid: train.recompute=none or train.recompute=experts, "
         "or run.cuda_graphs=false"});
  }
  if (experiment.run().determinism() == Run::cross_layout) {
    broken.push_back({{"run.cuda_graphs", "run.determinism"},
                      "run.cuda_graphs: true, and run.determinism: cross_layout adds gradients up on the "
                      "host; valid: run.determinism=same_layout, or run.cuda_graphs=false"});
  }
  const std::size_t faults_elsewhere = broken.size();
  for (const LayerKind& kind : layer_kinds(experiment)) {
    check_replayable(kind, broken);
    if (kind.prefix == "moe" && broken.size() > faults_elsewhere) break;  // every override would repeat it
  }
}

}  // namespace conclave::config
