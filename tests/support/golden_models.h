// The golden models of tests/interop/golden: what PyTorch computed with tiny random models. How they were
// made, and what each file holds: tests/interop/make_golden_models.py.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "configs/run.pb.h"
#include "trainer/checkpoint/safetensors.h"

namespace conclave::test {

inline constexpr const char* kGoldenModels[] = {"mixtral", "qwen3_moe", "olmoe"};

std::filesystem::path golden_directory(const std::string& model);

class GoldenReference {
 public:
  explicit GoldenReference(const std::string& model);

  // Throw Error for a name that the file doesn't have.
  std::vector<float> floats(const std::string& name) const;
  Shape shape(const std::string& name) const;

  std::int64_t sequences() const { return shape("tokens")[0]; }
  std::int64_t sequence_length() const { return shape("tokens")[1] - 1; }
  std::int64_t vocabulary() const { return shape("logits")[2]; }
  // [B, S + 1]
  std::vector<std::int32_t> tokens() const;

 private:
  const SafetensorsReader::Entry& entry(const std::string& name) const;

  SafetensorsReader file_;
};

// An experiment that trains the golden model as its script did: AdamW without clipping at a constant rate,
// all of the reference's tokens, written to `token_file`, in each step, no balance term.
config::Experiment golden_experiment(const std::string& model, const GoldenReference& reference,
                                     const std::filesystem::path& token_file);

}  // namespace conclave::test
