#include "configs/rules.h"

#include <fmt/format.h>

#include <cmath>
#include <map>
#include <string>

namespace conclave::config {
namespace {

void check_samples(const Experiment& experiment, std::vector<Violation>& broken) {
  const Data& data = experiment.data();
  if (data.samples() != Data::lines) return;
  if (experiment.train().objective() == Train::masked) {
    broken.push_back(
        {{"data.samples", "train.objective"},
         "data.samples: lines have different lengths, and train.objective: masked hides as many tokens of "
         "each sample; valid: data.samples=windows, or train.objective=next_token"});
  }
  if (data.tokenizer() == Data::bytes) return;
  broken.push_back({{"data.samples", "data.tokenizer"},
                    "data.samples: lines are found in text, and data.tokenizer is pretokenized; valid: "
                    "data.samples=windows, or data.tokenizer=bytes with texts"});
}

void check_tokenizer_file(const Experiment& experiment, std::vector<Violation>& broken) {
  const Data& data = experiment.data();
  if (data.tokenizer_file().empty() || data.tokenizer() == Data::pretokenized) return;
  broken.push_back(
      {{"data.tokenizer_file", "data.tokenizer"},
       fmt::format("data.tokenizer_file: {} made the ids of token files, and data.tokenizer is "
                   "bytes, which trains on texts as they are; valid: data.tokenizer=pretokenized "
                   "with what `conclave data prepare` makes of the texts, or no tokenizer_file",
                   data.tokenizer_file())});
}

void check_sources(const Experiment& experiment, std::vector<Violation>& broken) {
  const Data& data = experiment.data();
  if (experiment.model().kind() == Model::mixture_regression) return;
  if (data.train_size() == 0) {
    broken.push_back(
        {{"data.train"},
         "data.train: no sources; valid: a list such as data.train=[{name: text, path: data/text.txt}]"});
  }
  std::map<std::string, int> first_with_name;
  double total_weight = 0;
  for (int i = 0; i < data.train_size(); ++i) {
    const Source& source = data.train(i);
    const std::string path = fmt::format("data.train.{}", i);
    total_weight += source.weight();
    if (source.path().empty()) {
      broken.push_back(
          {{path + ".path"}, path + ".path: missing; every source needs one: path: data/text.txt"});
    }
    if (source.name().empty()) {
      broken.push_back({{path + ".name"}, path + ".name: missing; every source needs one: name: text"});
    } else if (const auto [first, is_new] = first_with_name.emplace(source.name(), i); !is_new) {
      broken.push_back(
          {{path + ".name"},
           fmt::format("{}.name: \"{}\" is the name of data.train.{} too; valid: a name of its own", path,
                       source.name(), first->second)});
    }
  }
  if (!std::isfinite(total_weight)) {
    broken.push_back(
        {{"data.train"},
         "data.train: the sum of the weights is not finite; valid: weights around 1, only their ratios "
         "count"});
  }
}

}  // namespace

void check_data(const Experiment& experiment, std::vector<Violation>& broken) {
  check_samples(experiment, broken);
  check_tokenizer_file(experiment, broken);
  check_sources(experiment, broken);
}

}  // namespace conclave::config
