// Rows of numbers, made up and from files.
#include "trainer/data/regression_data.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <set>

#include "comm/base/error.h"
#include "tests/support/data_files.h"
#include "trainer/data/csv_table.h"

namespace conclave::data {
namespace {

using test::write_file;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

config::Experiment experiment(const std::string& path = "") {
  config::Experiment experiment;
  experiment.mutable_model()->set_kind(config::Model::mixture_regression);
  experiment.mutable_train()->set_global_batch(4);
  experiment.mutable_data()->set_valid_fraction(0.25);
  config::Regression& data = *experiment.mutable_data()->mutable_regression();
  data.set_path(path);
  data.set_inputs(2);
  data.set_samples(400);
  data.set_noise(0);
  if (!path.empty()) return experiment;
  const double centers[2] = {-1, 1};
  for (int side = 0; side < 2; ++side) {
    config::Region& region = *data.add_regions();
    region.set_name(side == 0 ? "left" : "right");
    region.add_center(centers[side]);
    region.add_center(0);
    region.add_slope(2);
    region.add_slope(side);
    region.add_offset(10 * side);
  }
  return experiment;
}

std::string error_of(const config::Experiment& setting) {
  try {
    const RegressionData data(setting);
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "no Error was thrown";
  return "";
}

TEST(RegressionData, MakesUpPlanesByNearestCentre) {
  const RegressionData data(experiment());
  EXPECT_THAT(data.source_names(), ElementsAre("left", "right"));
  EXPECT_EQ(data.held_out_sequences(0) + data.held_out_sequences(1), 100);
  MicroBatch batch;
  for (int region = 0; region < 2; ++region) {
    std::vector<std::int64_t> all(static_cast<std::size_t>(data.held_out_sequences(region)));
    std::iota(all.begin(), all.end(), 0);
    data.load_held_out(region, all, batch);
    ASSERT_GT(all.size(), 20U);
    ASSERT_EQ(batch.input_view().shape(), (Shape{static_cast<std::int64_t>(all.size()), 2}));
    for (std::size_t row = 0; row < all.size(); ++row) {
      const float x = batch.inputs[2 * row];
      const float y = batch.inputs[2 * row + 1];
      ASSERT_EQ(x > 0, region == 1);
      ASSERT_LE(std::max(std::abs(x), std::abs(y)), 1);
      ASSERT_NEAR(batch.outputs[row], 2 * x + static_cast<float>(region) * (y + 10), 1e-5);
    }
  }
}

// An epoch holds every training row once; samples do not depend on how they are cut.
TEST(RegressionData, TrainsOnEveryRowOnceAnEpoch) {
  const RegressionData data(experiment());
  MicroBatch whole, part;
  data.load_samples({0, 300}, whole);
  const std::set<float> rows(whole.inputs.begin(), whole.inputs.end());
  EXPECT_GT(rows.size(), 590U) << "two inputs of 300 different rows";
  data.load_samples({100, 103}, part);
  EXPECT_TRUE(std::equal(part.inputs.begin(), part.inputs.end(), whole.inputs.begin() + 200));
  EXPECT_TRUE(std::equal(part.outputs.begin(), part.outputs.end(), whole.outputs.begin() + 100));
  data.load_samples({5, 5}, part);
  EXPECT_EQ(part.input_view().shape(), (Shape{0, 2}));
}

TEST(RegressionData, ReadsAndScalesFiles) {
  std::string text = "a,b,target\n";
  for (int i = 0; i < 40; ++i) text += fmt::format("{}, {};{}\r\n", i, 5, 100 * i);
  const RegressionData data(experiment(write_file("table.csv", text)));
  EXPECT_THAT(data.source_names(), ElementsAre("samples"));
  EXPECT_EQ(data.held_out_sequences(0), 10);
  MicroBatch batch;
  data.load_samples({0, 30}, batch);
  double sum = 0, squares = 0;
  for (std::size_t row = 0; row < 30; ++row) {
    EXPECT_EQ(batch.inputs[2 * row + 1], 0) << "a column that never changes";
    EXPECT_NEAR(batch.outputs[row], batch.inputs[2 * row], 1e-6);
    sum += batch.outputs[row];
    squares += std::pow(batch.outputs[row], 2);
  }
  EXPECT_NEAR(sum, 0, 1e-5);
  EXPECT_NEAR(squares, 30, 1e-4);

  config::Experiment plain = experiment(write_file("plain.csv", text));
  plain.mutable_data()->mutable_regression()->set_standardize(false);
  RegressionData(plain).load_held_out(0, std::array<std::int64_t, 1>{3}, batch);
  EXPECT_THAT(batch.inputs, ElementsAre(33, 5));
  EXPECT_THAT(batch.outputs, ElementsAre(3300));
}

TEST(RegressionData, SaysWhatIsWrongWithAFile) {
  EXPECT_THAT(error_of(experiment("/nowhere.csv")), HasSubstr("can't read /nowhere.csv"));
  EXPECT_THAT(error_of(experiment(write_file("word.csv", "1,2,3\n4,five,6\n"))), HasSubstr("word.csv:2"));
  EXPECT_THAT(error_of(experiment(write_file("inf.csv", "1,2,3\n4,inf,6\n"))), HasSubstr("inf.csv:2"));
  EXPECT_THAT(error_of(experiment(write_file("short.csv", "1,2,3\n\n4,5\n"))),
              HasSubstr("short.csv:3: 2 fields, but the lines before have 3"));
  EXPECT_THAT(error_of(experiment(write_file("wide.csv", "1,2,3,4\n"))), HasSubstr("has 4 columns"));
  EXPECT_THAT(error_of(experiment(write_file("few.csv", "1,2,3\n4,5,6\n"))),
              HasSubstr("2 samples to train on"));
  EXPECT_THAT(error_of(experiment(write_file("empty.csv", ""))), HasSubstr("has 0 columns"));
}

}  // namespace
}  // namespace conclave::data
