#include "trainer/compute_format.h"

#include <cstdint>
#include <span>

#include "comm/base/error.h"
#include "layers/ops/bf16_gemm/bf16_gemm.h"

namespace conclave {

DType compute_format(const config::Experiment& experiment, Communicator& world, bool on_gpu) {
  const auto wanted = experiment.precision().compute();
  if (wanted == config::Precision::fp32) return DType::kFloat32;

  const bool model_has_it = experiment.model().kind() == config::Model::language;
  std::int32_t unable_ranks = on_gpu || has_bf16_products() ? 0 : 1;
  world.all_reduce(buffer_view(std::span(&unable_ranks, 1)));
  if (model_has_it && unable_ranks == 0) return DType::kBFloat16;
  if (wanted == config::Precision::auto_) return DType::kFloat32;
  if (!model_has_it) {
    throw ConfigError(
        "precision.compute: bf16 is for model.kind: language; the mixture of local experts is "
        "computed in fp32; valid: fp32 or auto");
  }
  throw ConfigError(
      fmt::format("precision.compute: bf16, but the processors of {} of {} ranks have no AVX512-BF16; valid "
                  "here: fp32 or auto",
                  unable_ranks, world.size()));
}

}  // namespace conclave
