// Where memory lives and where an operator runs.
#pragma once

#include <cstdint>
#include <string_view>

namespace conclave {

enum class DeviceKind : std::uint8_t { kCpu, kCuda };

// "cpu", "cuda": for messages.
constexpr std::string_view name_of(DeviceKind kind) { return kind == DeviceKind::kCpu ? "cpu" : "cuda"; }

struct Device {
  DeviceKind kind = DeviceKind::kCpu;
  int index = 0;  // among the devices of its kind on this host

  friend bool operator==(Device, Device) = default;
};

}  // namespace conclave
