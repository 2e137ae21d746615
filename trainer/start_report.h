// What a person reads when a run starts: the model, the layout, the memory, and what every derived value
// became.
#pragma once

#include <string>

#include "trainer/trainer.h"

namespace conclave {

// The tables, for rank 0 to print. Not collective.
std::string start_report(const Trainer& trainer);

}  // namespace conclave
