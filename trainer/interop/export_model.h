// From a checkpoint to a directory of Hugging Face files.
#pragma once

#include <cstdint>
#include <filesystem>

#include "comm/base/dtype.h"
#include "trainer/interop/architecture.h"

namespace conclave {

struct ExportOptions {
  DType dtype = DType::kFloat32;             // or kBFloat16, kFloat16
  std::int64_t shard_bytes = 5'000'000'000;  // a file ends before the tensor that would make it larger
};

struct Export {
  Architecture architecture = Architecture::kMixtral;
  std::int64_t tensors = 0;
  std::int64_t files = 0;  // of tensors
  std::int64_t bytes = 0;  // of these files
  double loss = 0;         // nats a token of the self-check's made-up batch, the same before and after
};

// Writes config.json, generation_config.json, model.safetensors (or numbered files with an index) and the
// tokenizer's files into `target`, which must not exist. Then the self-check: the files are read back into a
// model built from the written config.json, and one batch must give the same loss, to the last bit, as the
// checkpoint's weights rounded to `dtype`. Needs the model's memory twice, one after the other; writing
// alone needs one block. Throws ConfigError with export_fit()'s reason, or Error; `target` is complete or
// absent.
Export export_model(const std::filesystem::path& checkpoint, const std::filesystem::path& target,
                    const ExportOptions& options);

}  // namespace conclave
