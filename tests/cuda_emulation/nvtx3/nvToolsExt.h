// The part of NVTX that Conclave uses. In place of a profiler there is a record for tests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#define NVTX_VERSION 3
#define NVTX_EVENT_ATTRIB_STRUCT_SIZE sizeof(nvtxEventAttributes_t)

enum nvtxMessageType_t { NVTX_MESSAGE_UNKNOWN = 0, NVTX_MESSAGE_TYPE_ASCII = 1 };
enum nvtxPayloadType_t { NVTX_PAYLOAD_UNKNOWN = 0, NVTX_PAYLOAD_TYPE_INT64 = 2 };
struct nvtxEventAttributes_t {
  std::uint16_t version;
  std::uint16_t size;
  std::int32_t payloadType;
  union {
    std::int64_t llValue;
  } payload;
  std::int32_t messageType;
  union {
    const char* ascii;
  } message;
};
int nvtxRangePushEx(const nvtxEventAttributes_t* attributes);
int nvtxRangePop();

namespace emulation {

struct Range {
  std::string name;
  std::int64_t index = -1;
  std::size_t depth = 0;  // ranges that it lies within
  bool has_ended = false;

  friend bool operator==(const Range&, const Range&) = default;
};

// From now on ranges are kept, in the order of their beginnings, until they are taken.
void record_ranges();
std::vector<Range> take_ranges();

}  // namespace emulation
