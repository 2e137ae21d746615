#include "trainer/start_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/self/self_communicator.h"
#include "tests/support/tiny_experiment.h"

namespace conclave {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class StartReportTest : public testing::Test {
 protected:
  std::string report() { return start_report(Trainer(experiment_, *alone_)); }

  std::unique_ptr<Communicator> alone_ = make_self_communicator();
  config::Experiment experiment_ = test::tiny_experiment(test::tiny_text_file());
};

TEST_F(StartReportTest, TheBalanceCoefficientInOtherConstants) {
  experiment_.mutable_moe()->set_balance_loss(0.02);
  EXPECT_THAT(
      report(),
      AllOf(HasSubstr("balance    0.02 * E * sum f P a layer (0.02 at perfect balance), over a "
                      "micro-batch on all ranks: results depend on how a step is cut"),
            HasSubstr("0.02 in Megatron-LM (aux_loss, over a rank's own micro-batch), MegaBlocks and OLMo; "
                      "0.01 in MaxText and flaxformer (f not divided by top_k)"),
            // 2 layers' terms of 0.02, one term that is top_k = 2 times as large.
            HasSubstr("0.02 in Hugging Face (one term over the tokens of all 2 layers); GShard and DeepSpeed "
                      "count first choices only")));
  experiment_.mutable_moe()->set_top_k(1);
  experiment_.mutable_moe()->set_balance_scope(config::Moe::sequence);
  EXPECT_THAT(
      report(),
      AllOf(HasSubstr("0.02 in Megatron-LM (seq_aux_loss), MegaBlocks and OLMo, MaxText and flaxformer "
                      "(top_k is 1)"),
            HasSubstr("0.04 in Hugging Face"), HasSubstr("0.02 in GShard and DeepSpeed"),
            HasSubstr("the same in every layout"), Not(HasSubstr("depend on how"))));
  experiment_.mutable_moe()->set_balance_scope(config::Moe::global_batch);
  EXPECT_THAT(report(), HasSubstr("Megatron-LM (global_aux_loss)"));
  experiment_.mutable_moe()->set_balance_loss(0);
  EXPECT_THAT(report(), Not(HasSubstr("balance  ")));
}

TEST_F(StartReportTest, WhatElseMovesARouter) {
  experiment_.mutable_moe()->set_balance_loss(0);
  experiment_.mutable_moe()->set_z_loss(0.125);
  EXPECT_THAT(report(), HasSubstr("balance    0.125 * mean(log-sum-exp^2)\n"));
  experiment_.mutable_moe()->set_z_loss(0);
  config::Experiment noisy = experiment_;
  test::apply(noisy, "noisy_top_k");
  std::swap(noisy, experiment_);
  EXPECT_THAT(report(), HasSubstr("balance    0.1 * CV^2(importance); 0.1 * CV^2(load)\n"));
  std::swap(noisy, experiment_);
  test::apply(experiment_, "sigmoid");
  EXPECT_THAT(report(), HasSubstr("balance    a bias on the choice moves by 0.02 a step toward even load\n"));
}

TEST_F(StartReportTest, LayersThatDifferHaveTheirOwnLines) {
  EXPECT_THAT(report(), HasSubstr("           2 MoE layers: 4 experts of 20, top-2 by softmax\n"));
  test::apply(experiment_, "overrides");
  EXPECT_THAT(
      report(),
      AllOf(HasSubstr("           block 0: 1 MoE layer: 2 experts of 12, top-1 by softmax\n"),
            HasSubstr("           block 1: 1 MoE layer: 7 experts of 20, top-2 by softmax, 1 shared\n"),
            HasSubstr("capacity   block 0: "), HasSubstr("\n           block 1: ")));
}

TEST_F(StartReportTest, SaysWhatItExportsAs) {
  EXPECT_THAT(report(), HasSubstr("export     exports as qwen3_moe\n"));
  test::apply(experiment_, "sigmoid");
  EXPECT_THAT(report(), HasSubstr("export     doesn't export to Hugging Face: moe.router is sigmoid: "));
  test::apply(experiment_, "local_experts");
  EXPECT_THAT(report(), Not(HasSubstr("\nexport ")));
}

TEST_F(StartReportTest, MarksWhatIsFrozenForcedAndTaught) {
  EXPECT_THAT(report(),
              AllOf(Not(HasSubstr("frozen")), Not(HasSubstr("FORCED")), Not(HasSubstr("supervised"))));
  experiment_.mutable_train()->add_freeze("layers.0.moe.router.weight");
  test::apply(experiment_, "force_balanced");
  test::apply(experiment_, "supervised");
  EXPECT_THAT(report(),
              AllOf(HasSubstr("frozen     96 of them keep their values (train.freeze)\n"),
                    HasSubstr("FORCED BALANCE (moe.force_balanced)"),
                    HasSubstr("supervised 0.5 * -ln(probability of a token's own experts) a layer: tiny "
                              "-> 1, 3\n")));
}

}  // namespace
}  // namespace conclave
