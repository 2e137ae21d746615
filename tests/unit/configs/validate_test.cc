#include "configs/validate.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/base/error.h"
#include "tests/support/config_files.h"

namespace conclave {
namespace {

using test::ConfigFiles;
using test::kSource;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

struct BrokenRule {
  std::string yaml;
  std::string fault;
};

class BrokenRuleTest : public testing::TestWithParam<BrokenRule> {};

TEST_P(BrokenRuleTest, NamesTheValuesThatWork) {
  EXPECT_THAT(ConfigFiles().faults(GetParam().yaml), ElementsAre(GetParam().fault));
}

INSTANTIATE_TEST_SUITE_P(
    Rules, BrokenRuleTest,
    testing::Values(
        BrokenRule{
            kSource + "moe: {top_k: 3, experts: 2}\n",
            "run.yaml:2:26: moe.top_k: 3 is more than moe.experts, 2, and a token goes to different experts; "
            "valid: moe.top_k from 1 to 2, or moe.experts of at least 3"},
        BrokenRule{kSource + "moe: {experts: 2, router_supervision: {weight: 1}}\n",
                   "run.yaml:2:48: moe.router_supervision.sources: none to teach; valid: a list such as "
                   "[{source: text, experts: [0, 1]}]"},
        BrokenRule{
            kSource + "moe: {experts: 2, router_supervision: {sources: [{source: a, experts: [1]}]}}\n",
            "run.yaml:2:59: moe.router_supervision.sources.0.source: \"a\" is no source of data.train; "
            "valid: text"},
        BrokenRule{
            kSource + "moe: {experts: 2, router_supervision: {sources: [{source: text}]}}\n",
            "run.yaml:2:50: moe.router_supervision.sources.0.experts: missing; valid: one expert or more, "
            "each once"},
        BrokenRule{
            kSource + "moe: {experts: 2, router_supervision: {sources: [{source: text, experts: [2]}]}}\n",
            "run.yaml:2:74: moe.router_supervision.sources.0.experts: 2 is no expert, moe.experts is 2; "
            "valid: ids from 0 to 1"},
        BrokenRule{
            kSource + "moe: {experts: 2, router: hash, router_supervision: {sources: [{source: text, "
                      "experts: [1]}]}}\n",
            "run.yaml:2:33: moe.router_supervision: moe.router: hash learns nothing and can't be taught; "
            "valid: any other moe.router, such as softmax, or no moe.router_supervision"},
        BrokenRule{
            kSource + "moe: {experts: 2, router: dense, force_balanced: true}\n",
            "run.yaml:2:50: moe.force_balanced: true has no effect with moe.router: dense, which sends every "
            "token to all experts; valid: moe.force_balanced=false, or another moe.router"},
        BrokenRule{kSource + "moe: {experts: 0}\ntrain: {recompute: experts}\n",
                   "run.yaml:3:20: train.recompute: experts has nothing to compute again in a dense model; "
                   "valid: none, block, or moe.experts of at least 1"},
        BrokenRule{kSource + "moe: {experts: 2, shared_gate: true}\n",
                   "run.yaml:2:32: moe.shared_gate: true gates the shared experts, and moe.shared_experts is "
                   "0; valid: moe.shared_experts of at least 1, or moe.shared_gate=false"},
        BrokenRule{
            kSource + "moe: {every: 5, experts: 2}\nmodel: {layers: 4}\n",
            "run.yaml:3:17: moe.every: 5 is more than model.layers, 4, which leaves no MoE layer; valid: "
            "moe.every from 1 to 4, or moe.experts=0 for a dense model"},
        BrokenRule{kSource + "moe: {experts: 6, expert_groups: 4}\n",
                   "run.yaml:2:34: moe.expert_groups: 4 does not divide moe.experts, 6; valid: 1, 2, 3 or 6"},
        BrokenRule{
            kSource + "moe: {experts: 6, expert_groups: 3, top_groups: 4}\n",
            "run.yaml:2:49: moe.top_groups: 4 is more than moe.expert_groups, 3; valid: moe.top_groups "
            "from 1 to 3, or moe.expert_groups of at least 4"},
        BrokenRule{
            kSource + "moe: {experts: 6, top_groups: 2}\n",
            "run.yaml:2:31: moe.top_groups: 2 is more than moe.expert_groups, 1; valid: moe.top_groups "
            "1, or moe.expert_groups of at least 2"},
        BrokenRule{kSource + "moe: {experts: 6, expert_groups: 3, top_k: 3}\n",
                   "run.yaml:2:44: moe.top_groups: 1 of 3 groups hold 2 experts, fewer than moe.top_k, 3; "
                   "valid: moe.top_groups from 2 to 3, or moe.top_k from 1 to 2"},
        BrokenRule{kSource + "moe: {experts: 6, expert_groups: 6, top_k: 6, router: sigmoid}\n",
                   "run.yaml:2:44: moe.top_groups: 1 of 6 groups hold 1 expert, fewer than moe.top_k, 6; "
                   "valid: moe.top_groups 6, or moe.top_k 1"},
        BrokenRule{
            kSource + "moe: {experts: 6, expert_groups: 3, router: gshard}\n",
            "run.yaml:2:45: moe.expert_groups: 3 has no effect with moe.router: gshard, as only softmax, "
            "sigmoid and hierarchical choose in groups; valid: moe.expert_groups=1, or another "
            "moe.router"},
        BrokenRule{
            kSource + "moe: {experts: 6, bias_update_rate: 0.01}\n",
            "run.yaml:2:37: moe.bias_update_rate: 0.01 has no effect with moe.router: softmax, as only "
            "sigmoid has a bias; valid: moe.bias_update_rate=0.001, or another moe.router"},
        BrokenRule{kSource + "model: {heads: 6, kv_heads: 4, head_dim: 8}\n",
                   "run.yaml:2:29: model.kv_heads: 4 does not divide model.heads, 6; valid: 1, 2, 3 or 6"},
        BrokenRule{kSource + "model: {d_model: 100, heads: 8}\n",
                   "run.yaml:2:30: model.d_model: 100 is not a multiple of model.heads, 8, as head_dim: auto "
                   "asks for; "
                   "valid: model.d_model=96 or 104, or give model.head_dim"},
        BrokenRule{kSource + "model: {d_model: 4, heads: 8}\n",
                   "run.yaml:2:28: model.d_model: 4 is not a multiple of model.heads, 8, as head_dim: auto "
                   "asks for; "
                   "valid: model.d_model=8, or give model.head_dim"},
        BrokenRule{kSource + "model: {d_model: 30, heads: 2}\n",
                   "run.yaml:2:29: model.d_model: 30 in 2 heads gives an odd head_dim, 15; the rotary "
                   "embedding turns "
                   "pairs; valid: model.d_model=28 or 32, or give an even model.head_dim"},
        BrokenRule{kSource + "model: {qk_norm_over: width}\n",
                   "run.yaml:2:23: model.qk_norm_over: width is nothing without a norm, and model.qk_norm is "
                   "false; valid: model.qk_norm=true, or model.qk_norm_over=head"},
        BrokenRule{"data: {train: [{name: a, path: a.txt}], tokenizer_file: t.json}\n",
                   "run.yaml:1:57: data.tokenizer_file: t.json made the ids of token files, and "
                   "data.tokenizer is bytes, which trains on texts as they are; valid: "
                   "data.tokenizer=pretokenized with what `conclave data prepare` makes of the texts, or no "
                   "tokenizer_file"},
        BrokenRule{kSource + "model: {head_dim: 7}\n",
                   "run.yaml:2:19: model.head_dim: found 7, which is odd; the rotary embedding turns pairs; "
                   "valid: 6 or "
                   "8"},
        BrokenRule{"model: {kind: mixture_regression}\nmoe: {experts: 2, router: dense}\n"
                   "data: {train: [{name: text, path: text.txt}], regression: {path: a.csv}}\n",
                   "run.yaml:3:15: data.train: holds texts, and model.kind: mixture_regression learns from "
                   "rows of numbers; valid: data.regression in its place"},
        BrokenRule{
            "model: {kind: mixture_regression}\nmoe: {experts: 2}\ndata: {regression: {path: a.csv}}\n",
            "run.yaml:1:15: moe.router: softmax does not fit model.kind: mixture_regression, in which "
            "every expert answers; valid: dense"},
        BrokenRule{
            "model: {kind: mixture_regression}\ndata: {regression: {path: a.csv}}\n"
            "moe: {experts: 2, router: dense, layers: [{blocks: [0], experts: 4}]}\n",
            "run.yaml:3:42: moe.layers: has no meaning for model.kind: mixture_regression, one layer of "
            "experts and a gate; valid: no moe.layers"},
        BrokenRule{"model: {kind: mixture_regression}\ndata: {regression: {path: a.csv}}\n"
                   "moe: {experts: 2, router: dense}\nparallel: {exchange_chunks: 2}\n",
                   "run.yaml:4:29: parallel.exchange_chunks: 2 chunks are for MoE layers, and model.kind: "
                   "mixture_regression has none; valid: 1"},
        BrokenRule{kSource + "train: {objective: masked}\n",
                   "run.yaml:2:20: train.objective: masked predicts tokens from both sides, and model.causal "
                   "is true; valid: model.causal=false, or train.objective=next_token"},
        BrokenRule{kSource + "model: {causal: false}\n",
                   "run.yaml:2:17: model.causal: false lets every token see the next one, which "
                   "train.objective: next_token predicts; valid: train.objective=masked, or "
                   "model.causal=true"},
        BrokenRule{kSource + "model: {causal: false, vocab_size: 256}\ntrain: {objective: masked}\n",
                   "run.yaml:3:20: model.vocab_size: 256 is too small for data.tokenizer: bytes and the mask "
                   "token of train.objective: masked; valid: auto, or 257 or more"},
        BrokenRule{"data: {tokenizer: pretokenized, train: [{name: a, path: a.bin}]}\n",
                   "run.yaml:1:19: model.vocab_size: auto is not enough for data.tokenizer: pretokenized; "
                   "valid: the "
                   "number of token ids, such as model.vocab_size=50257 for GPT-2's"},
        BrokenRule{kSource + "model: {vocab_size: 255}\n",
                   "run.yaml:2:21: model.vocab_size: 255 is too small for data.tokenizer: bytes; valid: "
                   "auto, or 256 or "
                   "more"},
        BrokenRule{
            kSource + "run: {determinism: cross_layout}\nmoe: {experts: 4}\n",
            "run.yaml:2:20: run.determinism: cross_layout, and moe.balance_scope: batch is taken over a "
            "micro-batch of all ranks, which is another one in each layout; valid: "
            "moe.balance_scope=sequence, or run.determinism=same_layout"},
        BrokenRule{"run: {name: a}\n",
                   "run.yaml: data.train: no sources; valid: a list such as data.train=[{name: text, path: "
                   "data/text.txt}]"},
        BrokenRule{"data: {train: [{name: a}]}\n",
                   "run.yaml:1:16: data.train.0.path: missing; every source needs one: path: data/text.txt"},
        BrokenRule{"data: {train: [{path: a}]}\n",
                   "run.yaml:1:16: data.train.0.name: missing; every source needs one: name: text"},
        BrokenRule{"data: {train: [{name: a, path: a}, {name: a, path: b}]}\n",
                   "run.yaml:1:43: data.train.1.name: \"a\" is the name of data.train.0 too; valid: a name "
                   "of its own"},
        BrokenRule{"data: {train: [{name: a, path: a, weight: 1e308}, {name: b, path: b, weight: 1e308}]}\n",
                   "run.yaml:1:15: data.train: the sum of the weights is not finite; valid: weights around "
                   "1, only their "
                   "ratios count"},
        BrokenRule{kSource + "moe: {experts: 4, capacity_factor: dropless, pad_to_capacity: true}\n",
                   "run.yaml:2:63: moe.pad_to_capacity: true needs a capacity to fill up to, and "
                   "moe.capacity_factor is dropless; valid: a number such as moe.capacity_factor=1.25, or "
                   "moe.pad_to_capacity=false"},
        BrokenRule{
            kSource + "run: {cuda_graphs: true}\nmoe: {experts: 4}\n",
            "run.yaml:2:20: run.cuda_graphs: true records MoE layers whose shapes stay the same, and "
            "there are none; valid: moe.pad_to_capacity=true with moe.capacity_factor a number such as "
            "1.25, or run.cuda_graphs=false"},
        BrokenRule{kSource + "run: {cuda_graphs: true}\nmoe: {experts: 4, pad_to_capacity: true, router: "
                             "noisy_top_k}\n",
                   "run.yaml:3:50: run.cuda_graphs: true, and moe.router: noisy_top_k draws other numbers in "
                   "each step; valid: moe.router=softmax, or run.cuda_graphs=false"},
        BrokenRule{kSource + "run: {cuda_graphs: true}\nmoe: {experts: 4, pad_to_capacity: true, jitter: "
                             "0.1}\n",
                   "run.yaml:3:50: run.cuda_graphs: true, and moe.jitter draws other numbers in each step; "
                   "valid: moe.jitter=0, or run.cuda_graphs=false"},
        BrokenRule{kSource + "run: {cuda_graphs: true}\nmoe: {experts: 4, pad_to_capacity: true}\ntrain: "
                             "{recompute: block}\n",
                   "run.yaml:4:20: run.cuda_graphs: true, and train.recompute: block runs each forward "
                   "twice, at different places of the memory; valid: train.recompute=none or "
                   "train.recompute=experts, or run.cuda_graphs=false"},
        BrokenRule{
            kSource + "model: {causal: false}\nmoe: {experts: 4, router: expert_choice, capacity_factor: "
                      "dropless}\ntrain: {objective: masked}\n",
            "run.yaml:3:59: moe.capacity_factor: capacity with expert_choice missing: it is the number "
            "of tokens that an expert takes, and it is dropless; valid: a number such as "
            "moe.capacity_factor=1, or moe.router=softmax"},
        BrokenRule{kSource + "moe: {experts: 4, router: expert_choice}\n",
                   "run.yaml:2:27: moe.router: expert_choice chooses a token's experts by the tokens after "
                   "it, which a causal model must not see; valid: moe.router=softmax, model.causal=false, or "
                   "moe.allow_future_leak=true, if the held-out loss needn't be a fair one"},
        BrokenRule{kSource +
                       "moe: {experts: 4, router: expert_choice, allow_future_leak: true, balance_loss: "
                       "0.1}\n",
                   "run.yaml:2:81: moe.balance_loss: 0.1 has no effect with moe.router: expert_choice, which "
                   "loads all "
                   "experts alike by construction; valid: moe.balance_loss=0, or another moe.router"},
        BrokenRule{
            "data: {train: [{name: a, path: b}], tokenizer: pretokenized, samples: lines}\nmodel: "
            "{vocab_size: 300}\n",
            "run.yaml:1:71: data.samples: lines are found in text, and data.tokenizer is pretokenized; "
            "valid: data.samples=windows, or data.tokenizer=bytes with texts"},
        BrokenRule{kSource + "optim: {betas: [0.9]}\n",
                   "run.yaml:2:16: optim.betas: found 1 of them; valid: two, such as [0.9, 0.95]"},
        BrokenRule{kSource + "train: {steps: 100}\n",
                   "run.yaml:2:16: schedule.warmup_steps: 100 is not below train.steps, 100; valid: "
                   "schedule.warmup_steps from 0 to 99, or train.steps of at least 101"}));

TEST(ValidateTest, ADenseModelMayKeepAnyMoeKey) {
  EXPECT_NO_THROW(
      ConfigFiles().load(kSource + "model: {layers: 1}\nmoe: {experts: 0, top_k: 64, every: 7}\n"));
}

TEST(ValidateTest, AsManyChoicesAsExpertsIsFine) {
  EXPECT_NO_THROW(ConfigFiles().load(kSource + "moe: {experts: 4, top_k: 4}\n"));
}

TEST(ValidateTest, GroupsThatHoldEnoughExpertsAreFine) {
  for (const char* router : {"softmax", "sigmoid"}) {
    EXPECT_NO_THROW(ConfigFiles().load(fmt::format(
        "{}moe: {{experts: 6, expert_groups: 3, top_groups: 2, top_k: 4, router: {}}}\n", kSource, router)));
  }
  EXPECT_NO_THROW(
      ConfigFiles().load(kSource + "moe: {experts: 6, router: sigmoid, bias_update_rate: 0.01}\n"));
  EXPECT_NO_THROW(ConfigFiles().load(kSource + "moe: {experts: 6, bias_update_rate: 0.001}\n"));
}

TEST(ValidateTest, ExpertChoiceMayLeakIfToldSoAndHasNoBalanceLoss) {
  const config::Experiment experiment =
      ConfigFiles().load(kSource + "moe: {experts: 4, router: expert_choice, allow_future_leak: true}\n");
  EXPECT_EQ(experiment.moe().balance_loss(), 0);
  EXPECT_THAT(config::violations(experiment), IsEmpty());
  EXPECT_NO_THROW(ConfigFiles().load(
      kSource +
      "model: {causal: false}\nmoe: {experts: 4, router: expert_choice}\ntrain: {objective: masked}\n"));
}

TEST(ValidateTest, AGivenHeadDimFreesTheWidth) {
  EXPECT_NO_THROW(ConfigFiles().load(kSource + "model: {d_model: 100, heads: 8, head_dim: 16}\n"));
}

TEST(ValidateTest, AResolvedExperimentIsStillValid) {
  EXPECT_THAT(config::violations(ConfigFiles().load(kSource)), IsEmpty());
}

std::string world_fault(std::int64_t experts, std::int64_t expert_parallel_size, int world_size,
                        std::int64_t exchange_chunks = 1) {
  config::Experiment experiment;
  experiment.mutable_parallel()->set_exchange_chunks(exchange_chunks);
  experiment.mutable_moe()->set_experts(experts);
  experiment.mutable_parallel()->set_expert_parallel_size(expert_parallel_size);
  try {
    config::check_for_world(experiment, world_size);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

TEST(ValidateTest, ExpertParallelSizeFitsTheWorld) {
  EXPECT_EQ(world_fault(8, 0, 3), "");
  EXPECT_EQ(world_fault(8, 4, 8), "");
  EXPECT_EQ(world_fault(3, 2, 2), "");  // shards may be uneven
  EXPECT_EQ(world_fault(0, 1, 4), "");
  EXPECT_EQ(
      world_fault(8, 4, 6),
      "parallel.expert_parallel_size: 4 does not divide the number of ranks, 6; valid: 1, 2, 3, 6, or auto");
  EXPECT_EQ(world_fault(8, 4, 2),
            "parallel.expert_parallel_size: 4 does not divide the number of ranks, 2; valid: 1, 2, or auto");
  EXPECT_EQ(world_fault(2, 4, 4),
            "parallel.expert_parallel_size: 4 is more than moe.experts, 2; valid: 1, 2, or auto");
  EXPECT_THAT(world_fault(0, 2, 2), HasSubstr("the model is dense; valid: 1, or auto"));
}

TEST(ValidateTest, ARankHoldsAsManyExpertsAsThereAreChunks) {
  EXPECT_EQ(world_fault(8, 0, 2, 4), "");
  EXPECT_EQ(world_fault(7, 0, 2, 4), "");   // 4 and 3
  EXPECT_EQ(world_fault(8, 2, 8, 4), "");   // four copies of the experts on two ranks each
  EXPECT_EQ(world_fault(8, 1, 8, 99), "");  // each rank holds all: nothing travels
  EXPECT_EQ(world_fault(8, 0, 1, 99), "");
  EXPECT_EQ(world_fault(0, 0, 4, 99), "");
  EXPECT_EQ(
      world_fault(8, 0, 4, 3),
      "parallel.exchange_chunks: 3 chunks of the experts of a rank, and none holds more than 2 (moe.experts "
      "8 over 4 ranks); valid: 1 to 2");
  EXPECT_THAT(world_fault(8, 2, 8, 5), HasSubstr("none holds more than 4"));
}

}  // namespace
}  // namespace conclave
