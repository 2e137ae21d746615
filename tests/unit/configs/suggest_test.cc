#include "configs/suggest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "configs/keys.h"

namespace conclave::config {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(SuggestTest, EditDistanceCountsEachKindOfSlipOnce) {
  EXPECT_EQ(edit_distance("", "abc"), 3U);
  EXPECT_EQ(edit_distance("top_k", "top_k"), 0U);
  EXPECT_EQ(edit_distance("topk", "top_k"), 1U);
  EXPECT_EQ(edit_distance("top__k", "top_k"), 1U);
  EXPECT_EQ(edit_distance("tap_k", "top_k"), 1U);
  EXPECT_EQ(edit_distance("tpo_k", "top_k"), 1U);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3U);
}

TEST(SuggestTest, NearestLeavesStrangersAlone) {
  EXPECT_EQ(nearest("postion", {"probability", "position"}), "position");
  EXPECT_EQ(nearest("random", {"probability", "position"}), std::nullopt);
  EXPECT_EQ(nearest("x", {"y"}), std::nullopt);
}

TEST(SuggestTest, PrefersOtherFrameworksNamesThenOtherSectionsThenSlips) {
  EXPECT_THAT(suggest_keys("model", "num_hidden_layers"), ElementsAre("model.layers"));
  EXPECT_THAT(suggest_keys("model", "experts"), ElementsAre("moe.experts"));
  EXPECT_THAT(suggest_keys("model", "hiden_size"), ElementsAre("model.d_model"));
  EXPECT_THAT(suggest_keys("schedule", "warmup_step"), ElementsAre("schedule.warmup_steps"));
  EXPECT_THAT(suggest_keys("optim", "warmup_step"), ElementsAre("schedule.warmup_steps"));
  EXPECT_THAT(suggest_keys("", "d_ff"), ElementsAre("model.d_ff", "moe.d_ff"));
  EXPECT_THAT(suggest_keys("", "qqqqqqqq"), IsEmpty());
}

// The keys of a Hugging Face config.json of these models.
TEST(SuggestTest, UnderstandsHuggingFaceNames) {
  const std::map<std::string, std::string> ours{{"hidden_size", "model.d_model"},
                                                {"num_hidden_layers", "model.layers"},
                                                {"num_attention_heads", "model.heads"},
                                                {"num_key_value_heads", "model.kv_heads"},
                                                {"head_dim", "model.head_dim"},
                                                {"max_position_embeddings", "model.max_seq"},
                                                {"rms_norm_eps", "model.norm_eps"},
                                                {"rope_theta", "model.rope_theta"},
                                                {"vocab_size", "model.vocab_size"},
                                                {"tie_word_embeddings", "model.tie_embeddings"},
                                                {"initializer_range", "model.init_std"},
                                                {"intermediate_size", "model.d_ff"},
                                                {"moe_intermediate_size", "moe.d_ff"},
                                                {"num_experts", "moe.experts"},
                                                {"num_local_experts", "moe.experts"},
                                                {"num_experts_per_tok", "moe.top_k"},
                                                {"norm_topk_prob", "moe.normalize_top_k"},
                                                {"router_aux_loss_coef", "moe.balance_loss"},
                                                {"router_jitter_noise", "moe.jitter"},
                                                {"decoder_sparse_step", "moe.every"},
                                                {"hidden_act", "moe.activation"}};
  for (const auto& [theirs, key] : ours)
    EXPECT_THAT(suggest_keys("model", theirs), ElementsAre(key)) << theirs;
}

TEST(SuggestTest, NoAliasMeansTwoKeys) {
  std::map<std::string, std::string> owner;
  for (const Key& key : all_keys()) {
    for (const std::string& name : aliases(*key.field)) {
      const auto [first, is_new] = owner.emplace(name, key.path);
      EXPECT_TRUE(is_new) << name << " means " << first->second << " and " << key.path;
    }
  }
}

TEST(KeysTest, EveryKeyIsExplained) {
  for (const Key& key : all_keys()) EXPECT_NE(key.field->options().GetExtension(doc), "") << key.path;
}

TEST(KeysTest, FindsKeysByTheirPaths) {
  ASSERT_NE(find_key("moe.top_k"), nullptr);
  EXPECT_EQ(find_key("moe.top_k")->name(), "top_k");
  EXPECT_EQ(find_key("data.train.3.path"), find_key("data.train.path"));
  EXPECT_EQ(find_key("moe.topk"), nullptr);
  EXPECT_EQ(find_key(""), nullptr);
}

TEST(KeysTest, NumbersAreShort) {
  EXPECT_EQ(number_text(1e-6), "1e-6");
  EXPECT_EQ(number_text(1e22), "1e22");
  EXPECT_EQ(number_text(0.1), "0.1");
  EXPECT_EQ(number_text(10000), "10000");
  EXPECT_EQ(duration_text(0), "0s");
  EXPECT_EQ(duration_text(5400), "90m");
  EXPECT_EQ(duration_text(0.5), "0.5s");
}

}  // namespace
}  // namespace conclave::config
