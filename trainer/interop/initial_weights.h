// checkpoint.init_from: the weights that a new run starts from.
#pragma once

#include <string>

#include "trainer/trainer.h"

namespace conclave {

// Collective. Fills the model's parameters (and, from a checkpoint, its routers' state) with those of
// checkpoint.init_from, each rank with what it owns and nothing else; step, data and optimizer stay at their
// beginning. Returns one line for the log; "" where the key is empty. Throws the same Error on every rank for
// files that are damaged or incomplete, or whose model computes something else than this run's: every key in
// which they differ is named (checkpoint.allow_changes lets them differ, as long as the shapes agree).
std::string load_initial_weights(Trainer& trainer);

}  // namespace conclave
