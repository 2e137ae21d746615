#include "optim/make_optimizer.h"

#include "comm/base/error.h"
#include "optim/adamw.h"

namespace conclave {

std::unique_ptr<Optimizer> make_optimizer(const config::Optim& options, const Ownership& ownership) {
  switch (options.name()) {
    case config::Optim::adamw:
      return std::make_unique<AdamW>(options, ownership);
  }
  throw ConfigError(
      fmt::format("optim.name is {}, and there is no such optimizer", static_cast<int>(options.name())));
}

}  // namespace conclave
