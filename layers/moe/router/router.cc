#include "layers/moe/router/router.h"

#include "layers/moe/router/expert_choice_router.h"
#include "layers/moe/router/softmax_router.h"

namespace conclave {

std::unique_ptr<Router> make_router(const config::Experiment& experiment, const std::string& name) {
  switch (experiment.moe().router()) {
    case config::Moe::softmax:
      return std::make_unique<SoftmaxRouter>(experiment, name);
    case config::Moe::expert_choice:
      return std::make_unique<ExpertChoiceRouter>(experiment, name);
    default:
      break;
  }
  throw ConfigError(fmt::format("moe.router: {} isn't built into this binary",
                                config::Moe::Router_Name(experiment.moe().router())));
}

}  // namespace conclave
