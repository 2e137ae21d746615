// The rules that span several keys, one file an idea; configs/validate.cc calls them all. Each appends what
// is broken. A key that can't be honoured is refused rather than ignored.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "configs/layer_kinds.h"
#include "configs/validate.h"

namespace conclave::config {

void check_model(const Experiment& experiment, std::vector<Violation>& broken);
void check_data(const Experiment& experiment, std::vector<Violation>& broken);
void check_regression(const Experiment& experiment, std::vector<Violation>& broken);
void check_training(const Experiment& experiment, std::vector<Violation>& broken);
// run.cuda_graphs, and what can't be part of a graph.
void check_cuda_graphs(const Experiment& experiment, std::vector<Violation>& broken);

// The MoE layers, of which there are some. Rules of one kind of layer are checked for each.
void check_moe(const Experiment& experiment, std::vector<Violation>& broken);
// What the router of a kind of layers needs, and what would have no effect with it.
void check_router(const LayerKind& kind, std::vector<Violation>& broken);
// Keys that hold for all layers and that the router of none reads.
void check_unread_keys(const std::vector<LayerKind>& kinds, std::vector<Violation>& broken);
// moe.router_supervision: its sources, and the experts and the router of a kind of layers.
void check_supervision(const Experiment& experiment, std::vector<Violation>& broken);
void check_supervised_layers(const LayerKind& kind, std::vector<Violation>& broken);

}  // namespace conclave::config
