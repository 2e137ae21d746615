// A GPU's driver that this program is too new for.
#pragma once

#include <string>

#include "comm/cuda/system.h"

namespace conclave {

// 13000 -> "13.0"
std::string cuda_version_text(int version);

// What is wrong and what to do about it; "" where there is no driver, or one that will do.
std::string outdated_driver(const cuda::System& system);

}  // namespace conclave
