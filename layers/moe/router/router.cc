#include "layers/moe/router/router.h"

#include "layers/moe/router/dense_router.h"
#include "layers/moe/router/expert_choice_router.h"
#include "layers/moe/router/gshard_router.h"
#include "layers/moe/router/hash_router.h"
#include "layers/moe/router/hierarchical_router.h"
#include "layers/moe/router/noisy_top_k_router.h"
#include "layers/moe/router/sigmoid_router.h"
#include "layers/moe/router/softmax_router.h"

namespace conclave {

double router_init_std(const config::Experiment& experiment) {
  const double configured = experiment.moe().router_init_std();
  return configured < 0 ? experiment.model().init_std() : configured;  // negative: auto
}

std::unique_ptr<Router> make_router(const config::Experiment& experiment, const std::string& name) {
  switch (experiment.moe().router()) {
    case config::Moe::softmax:
      return std::make_unique<SoftmaxRouter>(experiment, name);
    case config::Moe::sigmoid:
      return std::make_unique<SigmoidRouter>(experiment, name);
    case config::Moe::noisy_top_k:
      return std::make_unique<NoisyTopKRouter>(experiment, name);
    case config::Moe::gshard:
      return std::make_unique<GshardRouter>(experiment, name);
    case config::Moe::hash:
      return std::make_unique<HashRouter>(experiment, name);
    case config::Moe::dense:
      return std::make_unique<DenseRouter>(experiment, name);
    case config::Moe::hierarchical:
      return std::make_unique<HierarchicalRouter>(experiment, name);
    case config::Moe::expert_choice:
      return std::make_unique<ExpertChoiceRouter>(experiment, name);
  }
  throw ConfigError(fmt::format("moe.router: {} isn't built into this binary",
                                config::Moe::Router_Name(experiment.moe().router())));
}

}  // namespace conclave
