// NVTX with a record in place of a profiler. One process has one emulation, and one thread drives it.
#include <utility>

#include "tests/cuda_emulation/nvtx3/nvToolsExt.h"

namespace {

struct Recorder {
  bool is_on = false;
  std::vector<emulation::Range> ranges;
  std::vector<std::size_t> open;  // indices into `ranges`, the outermost first
};

Recorder& recorder() {
  static Recorder only;
  return only;
}

}  // namespace

int nvtxRangePushEx(const nvtxEventAttributes_t* attributes) {
  Recorder& record = recorder();
  if (!record.is_on) return -1;  // as without a profiler
  const bool has_index = attributes->payloadType == NVTX_PAYLOAD_TYPE_INT64;
  record.ranges.push_back({.name = attributes->message.ascii,
                           .index = has_index ? attributes->payload.llValue : -1,
                           .depth = record.open.size()});
  record.open.push_back(record.ranges.size() - 1);
  return static_cast<int>(record.open.size()) - 1;
}

int nvtxRangePop() {
  Recorder& record = recorder();
  if (record.open.empty()) return -1;
  record.ranges[record.open.back()].has_ended = true;
  record.open.pop_back();
  return static_cast<int>(record.open.size());
}

namespace emulation {

void record_ranges() { recorder().is_on = true; }

std::vector<Range> take_ranges() { return std::exchange(recorder(), {}).ranges; }

}  // namespace emulation
