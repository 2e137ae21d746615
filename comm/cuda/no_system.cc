#include "comm/cuda/system.h"

namespace conclave::cuda {

System system() { return {}; }

bool can_access_peer(int, int) { return false; }

}  // namespace conclave::cuda
