#include "trainer/data/training_data.h"

#include "trainer/data/dataset.h"
#include "trainer/data/regression_data.h"

namespace conclave::data {

std::unique_ptr<TrainingData> open_data(const config::Experiment& experiment) {
  if (experiment.model().kind() == config::Model::mixture_regression)
    return std::make_unique<RegressionData>(experiment);
  return std::make_unique<Dataset>(experiment);
}

}  // namespace conclave::data
