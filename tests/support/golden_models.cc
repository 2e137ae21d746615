#include "tests/support/golden_models.h"

#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "comm/base/error.h"
#include "tests/support/source_dir.h"
#include "trainer/interop/model_config.h"

namespace conclave::test {
namespace {

template <class T>
std::vector<T> values_of(const SafetensorsReader::Entry& entry, DType dtype) {
  CONCLAVE_CHECK(entry.dtype == dtype, "a golden tensor of type {}", name_of(entry.dtype));
  std::vector<T> values(entry.bytes.size() / sizeof(T));
  std::memcpy(values.data(), entry.bytes.data(), entry.bytes.size());
  return values;
}

// The text that the rows were cut from: each row's last token is the first of the next.
std::vector<std::uint16_t> text_of(const GoldenReference& reference) {
  const std::vector<std::int32_t> tokens = reference.tokens();
  const auto row = static_cast<std::size_t>(reference.sequence_length()) + 1;
  std::vector<std::uint16_t> text;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (i == 0 || i % row != 0) text.push_back(static_cast<std::uint16_t>(tokens[i]));
  }
  return text;
}

}  // namespace

std::filesystem::path golden_directory(const std::string& model) {
  return source_dir() / "tests/interop/golden" / model;
}

GoldenReference::GoldenReference(const std::string& model)
    : file_(golden_directory(model) / "reference.safetensors") {}

const SafetensorsReader::Entry& GoldenReference::entry(const std::string& name) const {
  const auto* found = file_.find(name);
  CONCLAVE_CHECK(found != nullptr, "{} has no {}", file_.path().string(), name);
  return *found;
}

std::vector<float> GoldenReference::floats(const std::string& name) const {
  return values_of<float>(entry(name), DType::kFloat32);
}

Shape GoldenReference::shape(const std::string& name) const { return entry(name).shape; }

std::vector<std::int32_t> GoldenReference::tokens() const {
  return values_of<std::int32_t>(entry("tokens"), DType::kInt32);
}

config::Experiment golden_experiment(const std::string& model, const GoldenReference& reference,
                                     const std::filesystem::path& token_file) {
  const std::vector<std::uint16_t> text = text_of(reference);
  std::ofstream(token_file, std::ios::binary)
      .write(reinterpret_cast<const char*>(text.data()), static_cast<std::streamsize>(2 * text.size()));

  const SafetensorsReader file(golden_directory(model) / "reference.safetensors");
  const auto settings = nlohmann::json::parse(file.metadata().at("adamw"));
  config::Experiment experiment = read_model_config(golden_directory(model)).experiment;
  experiment.mutable_model()->set_max_seq(reference.sequence_length());
  experiment.mutable_moe()->set_balance_loss(0);
  experiment.mutable_data()->mutable_train(0)->set_path(token_file.string());
  experiment.mutable_data()->set_valid_fraction(0);
  config::Optim& optim = *experiment.mutable_optim();
  optim.set_lr(settings.at("lr"));
  optim.set_weight_decay(settings.at("weight_decay"));
  optim.set_eps(settings.at("eps"));
  for (const double beta : settings.at("betas")) optim.add_betas(beta);
  optim.set_grad_clip(0);
  experiment.mutable_precision()->set_compute(config::Precision::fp32);
  experiment.mutable_schedule()->set_kind(config::Schedule::constant);
  experiment.mutable_schedule()->set_warmup_steps(0);
  experiment.mutable_train()->set_steps(settings.at("steps"));
  experiment.mutable_train()->set_global_batch(reference.sequences());
  experiment.mutable_train()->set_micro_batch(reference.sequences());
  experiment.mutable_checkpoint()->set_init_from(golden_directory(model).string());
  return experiment;
}

}  // namespace conclave::test
