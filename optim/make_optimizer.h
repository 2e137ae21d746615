// From the configuration to an optimizer.
#pragma once

#include <memory>
#include <vector>

#include "configs/run.pb.h"
#include "optim/optimizer.h"

namespace conclave {

// The optimizer that `options.name` names, over `parameters`, which must outlive it.
std::unique_ptr<Optimizer> make_optimizer(const config::Optim& options, std::vector<Parameter*> parameters);

}  // namespace conclave
