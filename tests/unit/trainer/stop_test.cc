#include "trainer/stop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>

#include "comm/self/self_communicator.h"
#include "tests/support/temporary_directory.h"

namespace conclave {
namespace {

using testing::HasSubstr;

class StopTest : public testing::Test {
 protected:
  StopTest() { experiment_.mutable_run()->set_dir(directory_.path().string()); }

  std::filesystem::path stop_file() const { return directory_.path() / "STOP"; }
  void write_stop_file() const { std::ofstream(stop_file()) << "\n"; }

  test::TemporaryDirectory directory_;
  config::Experiment experiment_;
  std::unique_ptr<Communicator> alone_ = make_self_communicator();
};

TEST_F(StopTest, GoesOnWithoutAReason) {
  StopCondition stop(experiment_, *alone_);
  EXPECT_FALSE(stop.should_stop(0));
  EXPECT_FALSE(stop.should_stop(1'000'000));
}

TEST_F(StopTest, EverySignalAsksForAStop) {
  for (const int signal : {SIGTERM, SIGINT, SIGUSR1, SIGUSR2}) {
    StopCondition stop(experiment_, *alone_);
    EXPECT_FALSE(stop.should_stop(1)) << "a signal of an earlier run is forgotten";
    std::raise(signal);
    EXPECT_TRUE(stop.should_stop(1));
    EXPECT_THAT(stop.reason(), HasSubstr(strsignal(signal)));
    EXPECT_TRUE(stop.should_stop(2)) << "until it is heeded";
  }
}

TEST_F(StopTest, ASecondInterruptionEndsTheProcessAtOnce) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  for (const int signal : {SIGTERM, SIGINT}) {
    EXPECT_EXIT(
        {
          const StopCondition stop(experiment_, *alone_);
          std::raise(signal);
          std::raise(signal);
        },
        testing::ExitedWithCode(128 + signal), "");
  }
}

TEST_F(StopTest, GivesTheSignalsBack) {
  { const StopCondition stop(experiment_, *alone_); }
  for (const int signal : {SIGTERM, SIGINT, SIGUSR1, SIGUSR2}) {
    struct sigaction action = {};
    sigaction(signal, nullptr, &action);
    EXPECT_EQ(action.sa_handler, SIG_DFL) << strsignal(signal);
  }
}

TEST_F(StopTest, AFileNamedStop) {
  write_stop_file();
  StopCondition stop(experiment_, *alone_);
  EXPECT_FALSE(std::filesystem::exists(stop_file())) << "left by an earlier run";
  EXPECT_FALSE(stop.should_stop(1));
  write_stop_file();
  EXPECT_TRUE(stop.should_stop(1));
  EXPECT_THAT(stop.reason(), HasSubstr(stop_file().string()));
}

TEST_F(StopTest, WallTime) {
  experiment_.mutable_run()->set_max_wall_time(1e9);
  StopCondition patient(experiment_, *alone_);
  EXPECT_FALSE(patient.should_stop(1));
  experiment_.mutable_run()->set_max_wall_time(1e-9);
  StopCondition hasty(experiment_, *alone_);
  EXPECT_TRUE(hasty.should_stop(1));
  EXPECT_THAT(hasty.reason(), HasSubstr("run.max_wall_time"));
}

TEST_F(StopTest, AfterSomeStepsOfTheWholeRun) {
  experiment_.mutable_train()->set_stop_after(3);
  StopCondition stop(experiment_, *alone_);
  EXPECT_FALSE(stop.should_stop(2));
  EXPECT_TRUE(stop.should_stop(3));
  EXPECT_TRUE(stop.should_stop(7)) << "resumed beyond it";
  EXPECT_THAT(stop.reason(), HasSubstr("train.stop_after=3"));
}

// What came from outside is told before what was planned.
TEST_F(StopTest, TheStrongestReasonIsTold) {
  experiment_.mutable_train()->set_stop_after(1);
  experiment_.mutable_run()->set_max_wall_time(1e-9);
  StopCondition stop(experiment_, *alone_);
  EXPECT_TRUE(stop.should_stop(1));
  EXPECT_THAT(stop.reason(), HasSubstr("max_wall_time"));
  write_stop_file();
  EXPECT_TRUE(stop.should_stop(1));
  EXPECT_THAT(stop.reason(), HasSubstr("STOP"));
  std::raise(SIGUSR1);
  EXPECT_TRUE(stop.should_stop(1));
  EXPECT_THAT(stop.reason(), HasSubstr(strsignal(SIGUSR1)));
}

}  // namespace
}  // namespace conclave
