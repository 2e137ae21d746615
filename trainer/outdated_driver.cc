#include "trainer/outdated_driver.h"

#include <fmt/format.h>

namespace conclave {

std::string cuda_version_text(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

std::string outdated_driver(const cuda::System& system) {
  if (system.driver_version == 0 || system.driver_version / 1000 >= system.runtime_version / 1000) return "";
  return fmt::format(
      "the driver is for CUDA {}, this program for {}: install a newer driver, or build with an older CUDA "
      "Toolkit",
      cuda_version_text(system.driver_version), cuda_version_text(system.runtime_version));
}

}  // namespace conclave
