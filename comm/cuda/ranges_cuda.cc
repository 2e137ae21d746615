#include "comm/cuda/ranges.h"

#include <nvtx3/nvToolsExt.h>

namespace conclave::cuda {

// The index is a payload, so that a profiler can sum up the ranges of one name.
void begin_range(const char* name, std::int64_t index) {
  nvtxEventAttributes_t attributes{};
  attributes.version = NVTX_VERSION;
  attributes.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
  attributes.messageType = NVTX_MESSAGE_TYPE_ASCII;
  attributes.message.ascii = name;
  if (index >= 0) {
    attributes.payloadType = NVTX_PAYLOAD_TYPE_INT64;
    attributes.payload.llValue = index;
  }
  nvtxRangePushEx(&attributes);
}

void end_range() { nvtxRangePop(); }

}  // namespace conclave::cuda
