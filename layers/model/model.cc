#include "layers/model/model.h"

#include "layers/model/language_model.h"
#include "layers/model/mixture_regression.h"

namespace conclave {

std::unique_ptr<Model> make_model(const config::Experiment& experiment, const ProcessGrid& grid) {
  if (experiment.model().kind() == config::Model::mixture_regression)
    return std::make_unique<MixtureRegression>(experiment, grid);
  return std::make_unique<LanguageModel>(experiment, grid);
}

}  // namespace conclave
