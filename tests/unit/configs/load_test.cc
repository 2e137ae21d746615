#include "configs/load.h"

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

// The least that loads: one source. Tests put their own keys before it.
TEST(LoadTest, DefaultsStandWhereNothingIsGiven) {
  const config::Experiment experiment = ConfigFiles().load(kSource);
  EXPECT_EQ(experiment.model().layers(), 4);
  EXPECT_EQ(experiment.moe().experts(), 0);
  EXPECT_EQ(experiment.data().train(0).weight(), 1.0);
}

TEST(LoadTest, ReadsEveryTypeOfValue) {
  const config::Experiment experiment = ConfigFiles().load(kSource + R"(
run: {name: "a b", seed: 18446744073709551615, max_wall_time: 1.5h}
model: {layers: 1e1, qk_norm: true, norm_eps: 1e-6, rope_theta: .5e4}
moe: {capacity_factor: dropless, drop: probability}
optim: {betas: [0.8, 0.9]}
checkpoint: {resume: must}
)");
  EXPECT_EQ(experiment.run().name(), "a b");
  EXPECT_EQ(experiment.run().seed(), 18446744073709551615U);
  EXPECT_EQ(experiment.run().max_wall_time(), 5400.0);
  EXPECT_EQ(experiment.model().layers(), 10);
  EXPECT_TRUE(experiment.model().qk_norm());
  EXPECT_EQ(experiment.model().norm_eps(), 1e-6);
  EXPECT_EQ(experiment.model().rope_theta(), 5000.0);
  EXPECT_EQ(experiment.moe().capacity_factor(), 0.0);
  EXPECT_EQ(experiment.moe().drop(), config::Moe::probability);
  EXPECT_EQ(experiment.optim().betas(1), 0.9);
  EXPECT_EQ(experiment.checkpoint().resume(), config::Checkpoint::must);
}

TEST(LoadTest, ResolvesAuto) {
  const config::Experiment experiment = ConfigFiles().load(kSource + "model: {d_model: 96, heads: 3}\n");
  EXPECT_EQ(experiment.model().kv_heads(), 3);
  EXPECT_EQ(experiment.model().head_dim(), 32);
  EXPECT_EQ(experiment.model().vocab_size(), 256);
}

TEST(LoadTest, ListsAllFaultsAtOnceEachWithPlaceAndRemedy) {
  const auto faults = ConfigFiles().faults(R"(model:
  hidden_size: 512
  heads: two
  heads: 4
moe: {expert: 4, top_k: 0}
data: {train: [{name: text, path: text.txt}]}
)",
                                           {"optim.lr=.nan"});
  EXPECT_THAT(
      faults,
      ElementsAre(
          "run.yaml:2:3: model.hidden_size: unknown key; did you mean model.d_model?",
          "run.yaml:3:10: model.heads: found two, which is not an integer; valid: an integer from 1 to 1024",
          "run.yaml:4:3: model.heads: duplicate key, first at run.yaml:3:3; keep one of them",
          "run.yaml:5:7: moe.expert: unknown key; did you mean moe.experts?",
          "run.yaml:5:25: moe.top_k: found 0, which is out of range; valid: an integer from 1 to 64",
          "command line: optim.lr: found .nan, which is not finite; valid: a number above 0 and at most "
          "100"));
}

TEST(LoadTest, HeadingCountsTheFaults) {
  const ConfigFiles files;
  try {
    files.load("modle: {}\nmoe: 3\n" + kSource);
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), testing::StartsWith("2 faults in the configuration\n"));
    EXPECT_EQ(error.exit_code(), ExitCode::kConfiguration);
  }
}

struct BadValue {
  std::string override_text;
  std::string fault;  // after "command line: "
};

class BadValueTest : public testing::TestWithParam<BadValue> {};

TEST_P(BadValueTest, SaysWhatWasFoundWhatIsValidAndHowToMendIt) {
  EXPECT_THAT(ConfigFiles().faults(kSource, {GetParam().override_text}),
              ElementsAre("command line: " + GetParam().fault));
}

INSTANTIATE_TEST_SUITE_P(
    Values, BadValueTest,
    testing::Values(
        BadValue{"model.layers=012",
                 "model.layers: found 012, which has a leading zero (octal to some readers); valid: an "
                 "integer from 1 "
                 "to 1000; write 12"},
        BadValue{"optim.lr=-01.5",
                 "optim.lr: found -01.5, which has a leading zero (octal to some readers); valid: a number "
                 "above 0 and "
                 "at most 100; write -1.5"},
        BadValue{"model.layers=00",
                 "model.layers: found 00, which has a leading zero (octal to some readers); valid: an "
                 "integer from 1 to 1000; write 0"},
        BadValue{"optim.lr=1e",
                 "optim.lr: found 1e, which is not a number; valid: a number above 0 and at most 100"},
        BadValue{"optim.lr=.",
                 "optim.lr: found ., which is not a number; valid: a number above 0 and at most 100"},
        BadValue{"run.max_wall_time=1h30m",
                 "run.max_wall_time: found 1h30m, which is not a number with a unit; valid: a duration such "
                 "as 90s, 30m, 2h or 1d"},
        BadValue{"model.layers=2.5",
                 "model.layers: found 2.5, which is not a whole number; valid: an integer from 1 to 1000"},
        BadValue{"model.layers=1e-1",
                 "model.layers: found 1e-1, which is not a whole number; valid: an integer from 1 to 1000"},
        BadValue{"model.layers=0x10",
                 "model.layers: found 0x10, which is not an integer; valid: an integer from 1 to 1000"},
        BadValue{"model.layers=1_000",
                 "model.layers: found 1_000, which is not an integer; valid: an integer from 1 to 1000"},
        BadValue{
            "model.layers=99999999999999999999",
            "model.layers: found 99999999999999999999, which is too large; valid: an integer from 1 to 1000"},
        BadValue{"model.layers='4'",
                 "model.layers: found \"4\", which is text in quotes; valid: an integer from 1 to 1000; "
                 "remove the "
                 "quotes"},
        BadValue{"model.layers=",
                 "model.layers: found no value; valid: an integer from 1 to 1000; leave the key out for its "
                 "default, 4"},
        BadValue{"model.layers=[4]", "model.layers: found a list; valid: an integer from 1 to 1000"},
        BadValue{"model.layers={a: 4}", "model.layers: found a map; valid: an integer from 1 to 1000"},
        BadValue{"run.seed=-1",
                 "run.seed: found -1, which is negative; valid: an integer from 0 to 18446744073709551615"},
        BadValue{"optim.lr=.inf",
                 "optim.lr: found .inf, which is not finite; valid: a number above 0 and at most 100"},
        BadValue{"optim.lr=nan",
                 "optim.lr: found nan, which is not finite; valid: a number above 0 and at most 100"},
        BadValue{"optim.lr=1e999",
                 "optim.lr: found 1e999, which is outside the range of double precision; valid: a number "
                 "above 0 and at "
                 "most 100"},
        BadValue{"optim.lr=0",
                 "optim.lr: found 0, which is out of range; valid: a number above 0 and at most 100"},
        BadValue{"model.qk_norm=yes",
                 "model.qk_norm: found yes, which is neither; valid: true or false; write true"},
        BadValue{"model.qk_norm=False",
                 "model.qk_norm: found False, which is neither; valid: true or false; write false"},
        BadValue{"moe.drop=positon",
                 "moe.drop: found positon, which is not one of them; valid: position, probability or "
                 "batch_prioritized; did you mean "
                 "position?"},
        BadValue{"moe.capacity_factor=0",
                 "moe.capacity_factor: found 0, which is out of range; valid: a number above 0 and at most "
                 "65536, or "
                 "dropless; write dropless"},
        BadValue{"moe.capacity_factor=droples",
                 "moe.capacity_factor: found droples, which is no number; valid: a number above 0 and at "
                 "most 65536, or "
                 "dropless; did you mean dropless?"},
        BadValue{"run.max_wall_time=90",
                 "run.max_wall_time: found 90, which is not a number with a unit; valid: a duration such as "
                 "90s, 30m, "
                 "2h or 1d; write 90s for seconds"},
        BadValue{"run.name=''",
                 "run.name: found \"\", which is empty; valid: text; give a value or leave the key out"},
        BadValue{"run.name=null",
                 "run.name: found no value; valid: text; leave the key out for its default, run"},
        BadValue{"optim.betas=[]",
                 "optim.betas: found no value; valid: a list, each element a number from 0 to 0.9999999; "
                 "leave the key "
                 "out for its default, [0.9, 0.95]"},
        BadValue{
            "optim.betas=[0.9, 1]",
            "optim.betas.1: found 1, which is out of range; valid: a list, each element a number from 0 to "
            "0.9999999"},
        BadValue{"schedule=3",
                 "schedule: found 3; valid: a map with the keys kind, warmup_steps, min_lr_fraction, "
                 "decay_fraction"},
        BadValue{"data.train={name: a, path: b}",
                 "data.train: found a map; valid: a list of maps {name, path, weight}"},
        BadValue{"data.train=[text.txt]",
                 "data.train.0: found text.txt; valid: a list of maps {name, path, weight}"}));

TEST(LoadTest, LongNonsenseGetsAShortAnswer) {
  const auto faults = ConfigFiles().faults(kSource + "model: {layers: " + std::string(1000000, '1') + "}\n");
  EXPECT_THAT(faults, ElementsAre("run.yaml:2:17: model.layers: found " + std::string(80, '1') +
                                  "..., which is too large; valid: an integer from 1 to 1000"));
}

TEST(LoadTest, UnknownKeysComeWithWhatWasMeant) {
  const auto faults = ConfigFiles().faults(R"(experts: 4
moe.top_k: 2
optm: {lr: 1}
train: {warmup_steps: 10}
precision: {zzz: 1}
data: {train: [{name: text, pth: text.txt}]}
)");
  EXPECT_THAT(
      faults,
      ElementsAre("run.yaml:1:1: experts: unknown key; did you mean moe.experts?",
                  "run.yaml:2:1: moe.top_k: unknown key; write it as moe: {top_k: ...}",
                  "run.yaml:3:1: optm: unknown key; did you mean optim?",
                  "run.yaml:4:9: train.warmup_steps: unknown key; did you mean schedule.warmup_steps?",
                  "run.yaml:5:13: precision.zzz: unknown key; valid in precision: compute",
                  "run.yaml:6:29: data.train.0.pth: unknown key; did you mean data.train.0.path?"));
}

TEST(LoadTest, RulesAreNotCheckedOnKeysWithFaults) {
  // top_k is unknown, so nothing can be said of top_k and experts.
  EXPECT_THAT(ConfigFiles().faults(kSource + "moe: {experts: 1, top_k: two}\n"), testing::SizeIs(1));
}

TEST(LoadTest, BrokenRulesStandAtTheKeyGivenLast) {
  const std::string yaml = kSource + "moe: {experts: 4, top_k: 3}\n";
  EXPECT_THAT(ConfigFiles().faults(yaml, {"moe.experts=2"}),
              ElementsAre(testing::StartsWith("command line: moe.top_k: 3 is more than moe.experts, 2")));
  EXPECT_THAT(ConfigFiles().faults(kSource + "moe: {experts: 1}\n"),
              ElementsAre(testing::StartsWith("run.yaml:2:16: moe.top_k: 2 is more than moe.experts, 1")));
}

TEST(LoadTest, FilesThatCannotBeReadAreFaultsOfTheConfiguration) {
  const ConfigFiles files;
  const std::string missing = files.directory() + "/missing.yaml";
  try {
    config::load_experiment(missing, {});
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_EQ(std::string(error.what()), "1 fault in the configuration\n" + missing +
                                             ": cannot be read: No such file or directory; check the path");
  }
  EXPECT_THROW(config::load_experiment(files.directory(), {}), ConfigError);
}

TEST(LoadTest, SyntaxErrorsHaveTheirPlace) {
  EXPECT_THAT(ConfigFiles().faults("model: {layers: 4\n"),
              ElementsAre(testing::StartsWith("run.yaml:2:1: not YAML: ")));
  EXPECT_THAT(ConfigFiles().faults("- a\n"),
              ElementsAre(HasSubstr("run.yaml:1:1: found a list; valid: a map")));
  EXPECT_THAT(ConfigFiles().faults("run: {}\n---\nrun: {}\n"), ElementsAre(HasSubstr("found 2 documents")));
  EXPECT_THAT(ConfigFiles().faults("? [a]\n: b\n" + kSource), ElementsAre(HasSubstr("a key must be a word")));
}

TEST(LoadTest, LaterFilesWinKeyByKeyAndListsReplace) {
  const ConfigFiles files;
  files.write("bases/deep/root.yaml",
              "model: {layers: 2, heads: 2}\ndata: {train: [{name: a, path: a}, {name: b, path: b}]}\n");
  files.write("bases/middle.yaml", "base: deep/root.yaml\nmodel: {layers: 3}\n");
  const config::Experiment experiment =
      files.load("base: bases/middle.yaml\nmodel: {d_model: 64}\ndata: {train: [{name: c, path: c}]}\n");
  EXPECT_EQ(experiment.model().layers(), 3);
  EXPECT_EQ(experiment.model().heads(), 2);
  EXPECT_EQ(experiment.model().d_model(), 64);
  ASSERT_EQ(experiment.data().train_size(), 1);
  EXPECT_EQ(experiment.data().train(0).name(), "c");
}

TEST(LoadTest, FaultsOfABaseStandInTheBase) {
  const ConfigFiles files;
  files.write("base.yaml", "model: {layer: 2}\n");
  EXPECT_THAT(files.faults("base: base.yaml\n" + kSource),
              ElementsAre("base.yaml:1:9: model.layer: unknown key; did you mean model.layers?"));
}

TEST(LoadTest, BasesThatCannotBeFollowed) {
  const ConfigFiles files;
  EXPECT_THAT(
      files.faults("base: none.yaml\n" + kSource),
      ElementsAre("run.yaml:1:7: base: cannot read none.yaml: No such file or directory; check the path"));
  EXPECT_THAT(files.faults("base: [a, b]\n" + kSource),
              ElementsAre("run.yaml:1:7: base: found a list; valid: the path of one YAML file"));
  files.write("other.yaml", "base: run.yaml\n");
  EXPECT_THAT(
      files.faults("base: other.yaml\n" + kSource),
      ElementsAre("other.yaml:1:7: base: the files include each other: run.yaml -> other.yaml -> run.yaml; "
                  "remove one base"));
}

TEST(LoadTest, OverridesReachValuesSectionsListsAndElements) {
  const config::Experiment experiment = ConfigFiles().load(
      kSource + "moe: {experts: 4, d_ff: 8}\n",
      {"moe.top_k=3", "moe={experts: 8}", "optim.betas=[0.5, 0.6]", "data.train.0.weight=2.5"});
  EXPECT_EQ(experiment.moe().top_k(), 3);
  EXPECT_EQ(experiment.moe().experts(), 8);
  EXPECT_EQ(experiment.moe().d_ff(), 8);
  EXPECT_EQ(experiment.optim().betas(0), 0.5);
  EXPECT_EQ(experiment.data().train(0).weight(), 2.5);
  EXPECT_EQ(experiment.data().train(0).path(), "text.txt");
}

TEST(LoadTest, ParsesYamlThatIsNoFile) {
  const std::vector<std::string> overrides = {"moe.experts=4"};
  EXPECT_EQ(config::parse_experiment(kSource, "checkpoint", overrides).moe().experts(), 4);
  try {
    config::parse_experiment("base: other.yaml\nmoe: {topk: 2}\n" + kSource, "checkpoint", {});
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_STREQ(error.what(),
                 "2 faults in the configuration\n"
                 "checkpoint:1:7: base: only a file can have one; leave the key out\n"
                 "checkpoint:2:7: moe.topk: unknown key; did you mean moe.top_k?");
  }
}

TEST(LoadTest, OverridesThatMakeNoSense) {
  const auto faults = ConfigFiles().faults(
      kSource, {"verbose", "moe.topk=2", "data.train.1.path=x", "data.train.first=x", "optim.lr.x=1",
                "base=a.yaml", "run.name=[", "moe.z_loss=0", "moe.z_loss=1", "data.train.0=x"});
  EXPECT_THAT(
      faults,
      ElementsAre("command line: verbose: not of the form key=value, such as moe.top_k=2",
                  "command line: moe.topk: unknown key; did you mean moe.top_k?",
                  "command line: data.train: found element \"1\"; valid: 0",
                  "command line: data.train: found element \"first\"; valid: 0",
                  "command line: optim.lr.x: optim.lr is a value, not a section; valid: a number above 0 and "
                  "at most 100",
                  "command line: base: can only be given in a file; name the file to start from instead",
                  "command line: run.name=[: the value is not YAML: end of sequence flow not found; quote it",
                  "command line: moe.z_loss: given twice, as moe.z_loss=0 and moe.z_loss=1; keep one",
                  "command line: data.train.0: found x; valid: a map"));
}

}  // namespace
}  // namespace conclave
