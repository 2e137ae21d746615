// From the configuration to an optimizer.
#pragma once

#include <memory>

#include "configs/run.pb.h"
#include "optim/optimizer.h"
#include "optim/ownership.h"

namespace conclave {

// The optimizer that `options.name` names, over the rows that this rank owns; `ownership` must outlive it.
std::unique_ptr<Optimizer> make_optimizer(const config::Optim& options, const Ownership& ownership);

}  // namespace conclave
