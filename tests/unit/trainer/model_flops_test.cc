#include "trainer/model_flops.h"

#include <gtest/gtest.h>

#include "configs/load.h"
#include "tests/support/source_dir.h"

namespace conclave {
namespace {

config::Experiment preset(const std::string& name, const std::vector<std::string>& overrides = {}) {
  return config::load_experiment((test::source_dir() / "configs" / name).string(), overrides);
}

// The counts of a plain model, written out: D wide, L layers, E experts of F, K a token, S tokens, V words.
double by_hand(double D, double L, double E, double F, double K, double S, double V) {
  return 6 * (L * (4 * D * D + 3 * D * F * K + D * E) + V * D) + L * 6 * S * D;
}

TEST(ModelFlopsTest, OfAPlainModel) {
  EXPECT_EQ(ModelFlops(preset("bench_256.yaml")).training(), by_hand(256, 4, 8, 512, 2, 256, 256));
  EXPECT_EQ(ModelFlops(preset("bench_512.yaml")).training(), by_hand(512, 6, 8, 1024, 2, 512, 256));
  // The dense variant is as large, but for the router.
  EXPECT_EQ(ModelFlops(preset("bench_512.yaml", {"moe.experts=0"})).training(),
            by_hand(512, 6, 0, 1024, 2, 512, 256));
  // Attention that looks both ways does twice the work.
  config::Experiment both_ways = preset("bench_256.yaml");
  both_ways.mutable_model()->set_causal(false);
  EXPECT_EQ(ModelFlops(both_ways).attention_forward,
            2 * ModelFlops(preset("bench_256.yaml")).attention_forward);
}

TEST(ModelFlopsTest, OfRecomputation) {
  const ModelFlops flops(preset("bench_256.yaml"));
  EXPECT_EQ(flops.recomputed(config::Train::none), 0);
  EXPECT_EQ(flops.recomputed(config::Train::experts), 2.0 * 4 * 2 * (2 * 512) * 256);
  EXPECT_EQ(flops.recomputed(config::Train::block), flops.training() / 3 - 2.0 * 256 * 256);
}

}  // namespace
}  // namespace conclave
