#include "tests/support/tiny_experiment.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <fstream>

#include "configs/resolve.h"
#include "layers/tensor/philox.h"

namespace conclave::test {

std::string tiny_text_file() {
  constexpr std::array kWords = {"the", "gate",   "sends", "each",  "token", "to",
                                 "an",  "expert", "that",  "knows", "it"};
  constexpr std::uint64_t kWordCount = 4000;
  const RandomStream random(1, "tiny_text");
  const std::string path = fmt::format("{}/tiny_text_{}.txt", testing::TempDir(), getpid());
  std::ofstream file(path);
  for (std::uint64_t i = 0; i < kWordCount; ++i) {
    file << kWords[random.bits(i) % kWords.size()] << (i % 9 == 8 ? ".\n" : " ");
  }
  return path;
}

config::Experiment tiny_experiment(const std::string& text_path) {
  config::Experiment experiment;
  experiment.mutable_run()->set_dir(testing::TempDir() + "/tiny_run");
  config::Model& model = *experiment.mutable_model();
  model.set_layers(2);
  model.set_d_model(24);
  model.set_heads(4);
  model.set_kv_heads(2);
  model.set_head_dim(8);
  model.set_max_seq(19);
  model.set_qk_norm(true);
  model.set_d_ff(40);
  config::Moe& moe = *experiment.mutable_moe();
  moe.set_experts(4);
  moe.set_top_k(2);
  moe.set_d_ff(20);
  config::Source& source = *experiment.mutable_data()->add_train();
  source.set_name("tiny");
  source.set_path(text_path);
  experiment.mutable_schedule()->set_warmup_steps(2);
  config::Train& train = *experiment.mutable_train();
  train.set_steps(20);
  train.set_micro_batch(2);
  train.set_global_batch(4);
  config::resolve(experiment);
  return experiment;
}

void apply(config::Experiment& experiment, const std::string& variant) {
  config::Moe& moe = *experiment.mutable_moe();
  if (variant == "untied") experiment.mutable_model()->set_tie_embeddings(false);
  if (variant == "shared") moe.set_shared_experts(1);
  if (variant == "top1") {
    moe.set_top_k(1);
    moe.set_normalize_top_k(false);
  }
  if (variant == "switch") {
    moe.set_top_k(1);
    moe.set_normalize_top_k(false);
    moe.set_jitter(0.1);
  }
  if (variant == "sigmoid") {
    moe.set_router(config::Moe::sigmoid);
    moe.set_bias_update_rate(0.02);
    moe.set_routed_scale(1.5);
  }
  if (variant == "groups") {
    moe.set_experts(6);
    moe.set_expert_groups(3);
    moe.set_top_groups(2);
  }
  if (variant == "top_all") moe.set_top_k(moe.experts());
  if (variant == "dense_every_second") moe.set_every(2);
  if (variant == "local_experts") {
    experiment.mutable_model()->set_kind(config::Model::mixture_regression);
    experiment.mutable_model()->set_max_seq(1);
    experiment.mutable_model()->set_init_std(0.5);
    moe.set_router(config::Moe::dense);
    experiment.mutable_data()->clear_train();
    config::Regression& data = *experiment.mutable_data()->mutable_regression();
    data.set_samples(64);
    for (const double side : {-1.0, 1.0}) {
      config::Region& region = *data.add_regions();
      region.set_name(side < 0 ? "left" : "right");
      for (const double value : {side, 0.0}) region.add_center(value);
      for (const double value : {2.0, side}) region.add_slope(value);
      region.add_offset(5 * side);
    }
  }
  if (variant == "masked") {
    experiment.mutable_train()->set_objective(config::Train::masked);
    experiment.mutable_model()->set_causal(false);
    experiment.mutable_model()->set_vocab_size(257);
  }
  if (variant == "hash") moe.set_router(config::Moe::hash);
  if (variant == "dense_mixture") {
    moe.set_router(config::Moe::dense);
    config::resolve(experiment);
  }
  if (variant == "gshard") {
    moe.set_router(config::Moe::gshard);
    moe.set_renormalize_after_drop(true);
  }
  if (variant == "noisy_top_k") {
    moe.set_router(config::Moe::noisy_top_k);
    moe.set_importance_loss(0.1);
    moe.set_load_loss(0.1);
  }
  if (variant == "hierarchical") {
    moe.set_router(config::Moe::hierarchical);
    moe.set_experts(6);
    moe.set_expert_groups(3);
    moe.set_top_groups(2);
    moe.set_top_k(4);
  }
  if (variant == "expert_choice") {
    moe.set_router(config::Moe::expert_choice);
    moe.set_capacity_factor(1);
    moe.set_balance_loss(0);
  }
  if (variant == "pad_to_capacity") {  // and nothing is dropped, which would depend on the layout
    moe.set_pad_to_capacity(true);
    moe.set_capacity_factor(static_cast<double>(moe.experts()) / static_cast<double>(moe.top_k()));
  }
  if (variant == "dropout") moe.set_expert_dropout(0.3);
  if (variant == "overrides") {  // fewer experts than ranks, and more than any
    config::MoeLayers& first = *moe.add_layers();
    first.add_blocks(0);
    first.set_experts(2);
    first.set_top_k(1);
    first.set_d_ff(12);
    config::MoeLayers& second = *moe.add_layers();
    second.add_blocks(1);
    second.set_experts(7);
    second.set_shared_experts(1);
  }
  if (variant == "force_balanced") moe.set_force_balanced(true);
  if (variant == "supervised") {
    config::RouterSupervision& supervision = *moe.mutable_router_supervision();
    supervision.set_weight(0.5);
    config::SourceExperts& label = *supervision.add_sources();
    label.set_source("tiny");
    label.add_experts(1);
    label.add_experts(3);
  }
  if (variant == "gateless") {
    experiment.mutable_model()->set_activation(config::gelu);
    moe.set_every(2);
    moe.set_activation(config::gelu);
    moe.set_shared_experts(1);
    moe.set_shared_gate(true);
  }
}

}  // namespace conclave::test
