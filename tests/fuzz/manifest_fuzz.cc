// Any bytes as the manifest of a checkpoint: refused by an Error, or a manifest whose numbers can be relied
// on.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "comm/base/error.h"
#include "trainer/checkpoint/manifest.h"

namespace {

// What a checked manifest promises to those who read tensors by it.
void rely_on(const conclave::checkpoint::Manifest& manifest) {
  for (const conclave::checkpoint::Tensor& tensor : manifest.tensors()) {
    const conclave::GlobalTensor global = conclave::global_tensor(tensor);
    std::int64_t rows = 0;
    for (const conclave::checkpoint::Slice& slice : tensor.slices()) {
      if (slice.row_begin() != rows || slice.row_end() <= rows) std::abort();
      rows = slice.row_end();
      conclave::entry_name(global.name, {slice.row_begin(), slice.row_end()}, global.rows());
    }
    if (rows != global.rows() || global.rows() * global.row_bytes() < 0) std::abort();
  }
  std::int64_t earlier = -1;
  for (const std::int64_t batch : conclave::progress_of(manifest).left_out_batches) {
    if (batch <= earlier) std::abort();
    earlier = batch;
  }
}

void parse(const std::string& contents) {
  try {
    rely_on(conclave::parse_manifest(contents, "fuzz"));
  } catch (const conclave::Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string contents(reinterpret_cast<const char*>(data), size);
  parse(contents);
  parse(conclave::sealed_manifest(contents));  // past the checksum, as a forger would
  return 0;
}
