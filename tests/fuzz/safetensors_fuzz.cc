// Any bytes as a safetensors file: refused by an Error, or tensors that lie within the file and cover its
// data.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "comm/base/error.h"
#include "trainer/checkpoint/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span<const std::byte> file(reinterpret_cast<const std::byte*>(data), size);
  try {
    const conclave::SafetensorsContents contents = conclave::parse_safetensors(file, "fuzz");
    std::size_t covered = contents.header_bytes;
    for (const auto& [name, entry] : contents.entries) {
      const auto elements = static_cast<std::size_t>(entry.shape.elements());
      if (elements * conclave::size_of(entry.dtype) != entry.bytes.size()) std::abort();
      if (!entry.bytes.empty() && (entry.bytes.data() < file.data() + contents.header_bytes ||
                                   entry.bytes.data() + entry.bytes.size() > file.data() + size)) {
        std::abort();
      }
      if (entry.shape.rank() > 0 && entry.shape.row_elements() < 0) std::abort();
      covered += entry.bytes.size();
    }
    if (covered != size) std::abort();
  } catch (const conclave::Error&) {
  }
  return 0;
}
