// Where memory lives and where an operator runs.
#pragma once

#include <cstdint>

namespace conclave {

enum class DeviceKind : std::uint8_t { kCpu, kCuda };

struct Device {
  DeviceKind kind = DeviceKind::kCpu;
  int index = 0;  // among the devices of its kind on this host

  friend bool operator==(Device, Device) = default;
};

}  // namespace conclave
