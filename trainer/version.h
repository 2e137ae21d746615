// The version of Conclave, as shown by --version and written into checkpoints.
#pragma once

namespace conclave {

const char* version();

}  // namespace conclave
