#include "trainer/version.h"

namespace conclave {

const char* version() { return "0.1.0"; }

}  // namespace conclave
