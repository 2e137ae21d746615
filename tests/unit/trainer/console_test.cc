#include "trainer/metrics/console.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>

namespace conclave {
namespace {

using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

StepRecord record_at(std::int64_t step) {
  StepRecord record;
  record.step = step;
  record.loss = 2.0;
  record.lr = 9.75e-4;
  record.grad_norm = 0.8125;
  record.step_ms = 84.2;
  record.tokens_per_second = 97460;
  record.load_imbalance = 1.318;
  record.dropped_fraction = 0.0042;
  record.exchange_fraction = 0.061;
  record.memory_bytes = 312 << 20;
  record.expert_load = {{1, 2}};
  return record;
}

TEST(StepLine, SaysEverything) {
  EXPECT_EQ(
      step_line(record_at(120), 1000, true, 74.0),
      "step  120/1000  loss 2.0000 (2.885 bpb)  lr 9.75e-04  grad 0.812  84 ms  97.5k tok/s  load 1.32  "
      "drop 0.4%  exchange 6.1%  312 MiB  ETA 1m 14s");
}

TEST(StepLine, LeavesOutWhatHasNoMeaning) {
  StepRecord dense = record_at(1);
  dense.expert_load.clear();
  dense.memory_bytes = 0;
  const std::string line = step_line(dense, 9, false, std::nullopt);
  EXPECT_THAT(line, StartsWith("step 1/9  loss 2.0000  lr"));
  for (const char* absent : {"bpb", "load", "drop", "exchange", "ETA", "skipped", "MiB"}) {
    EXPECT_THAT(line, Not(HasSubstr(absent)));
  }
  dense.skipped_steps = 2;
  EXPECT_THAT(step_line(dense, 9, false, std::nullopt), HasSubstr("skipped 2"));
}

TEST(StepLine, MarksForcedBalance) {
  StepRecord record = record_at(1);
  record.force_balanced = true;
  EXPECT_THAT(step_line(record, 9, false, std::nullopt), HasSubstr("FORCED BALANCE (moe.force_balanced)"));
  EvaluationRecord evaluation;
  evaluation.router_accuracy = 0.931;
  EXPECT_THAT(evaluation_line(evaluation), HasSubstr("router accuracy 93.1%"));
  EXPECT_THAT(evaluation_line(evaluation), Not(HasSubstr("FORCED")));
  evaluation.force_balanced = true;
  EXPECT_THAT(evaluation_line(evaluation), HasSubstr("FORCED BALANCE"));
}

TEST(EvaluationLine, BySource) {
  EvaluationRecord record;
  record.step = 200;
  record.eval_loss = 1.5;
  record.bits_per_byte = 2.164;
  record.by_source = {{"kjv", 1.25, 1.8}, {"german", 1.75, 2.5}};
  EXPECT_EQ(evaluation_line(record),
            "eval step 200  held-out loss 1.5000 (2.164 bpb)  kjv 1.800 bpb  german 2.500 bpb");
  record.masked = true;
  EXPECT_NE(evaluation_line(record).find("(2.164 bits per masked byte)"), std::string::npos)
      << evaluation_line(record);
  record.tokens_are_bytes = false;
  EXPECT_EQ(evaluation_line(record), "eval step 200  held-out loss 1.5000  kjv 1.2500  german 1.7500");
}

TEST(ConsoleTest, APipeGetsPlainLines) {
  std::ostringstream out;
  {
    Console console(out, {}, 100, 0, true);
    console.progress(49, 0.5);
    console.progress(50, 0.5);
    console.write(record_at(50));
    console.message("hello");
    console.warning("careful");
  }
  EXPECT_EQ(out.str(), step_line(record_at(50), 100, true, 25.0) + "\nhello\nwarning: careful\n");
}

TEST(ConsoleTest, ATerminalGetsABarThatLinesDoNotDisturb) {
  std::ostringstream out;
  {
    Console console(out, {.live = true, .colour = false, .columns = 60}, 100, 0, true);
    console.progress(50, 1.0);
    EXPECT_THAT(out.str(), StartsWith("\r\x1b[K[="));
    EXPECT_THAT(out.str(), HasSubstr(" 50%  50/100  ETA 50s"));
    const std::string bar = out.str();
    EXPECT_LT(bar.size() - std::string("\r\x1b[K").size(), 60U);  // it must not wrap
    out.str("");
    console.message("hello");
    EXPECT_EQ(out.str(), "\r\x1b[Khello\n" + bar);  // cleared, the line, drawn again
    out.str("");
  }
  EXPECT_EQ(out.str(), "\r\x1b[K");  // and gone at the end
}

TEST(ConsoleTest, ColourOnlyWhereAsked) {
  for (const bool colour : {false, true}) {
    std::ostringstream out;
    Console console(out, {.live = false, .colour = colour, .columns = 80}, 100, 0, true);
    console.warning("careful");
    EXPECT_EQ(out.str().find('\x1b') != std::string::npos, colour);
  }
}

TEST(ConsoleTest, NarrowTerminalsAndRunsWithoutStepsAreFine) {
  std::ostringstream out;
  Console console(out, {.live = true, .colour = false, .columns = 5}, 0, 0, true);
  console.progress(0, 0.1);
  EXPECT_THAT(out.str(), HasSubstr("[]"));
}

TEST(ConsoleStyleTest, AFileIsNoTerminal) {
  std::FILE* file = std::tmpfile();
  ASSERT_NE(file, nullptr);
  const ConsoleStyle style = ConsoleStyle::detect(file);
  std::fclose(file);
  EXPECT_FALSE(style.live);
  EXPECT_FALSE(style.colour);
  EXPECT_EQ(style.columns, 80);
}

// A pseudo-terminal, open for writing, with a width (0: without a size, as mpirun makes it). Some chroots and
// sandboxes have none: then file() is null.
class PseudoTerminal {
 public:
  explicit PseudoTerminal(unsigned short columns) : controller_(::posix_openpt(O_RDWR | O_NOCTTY)) {
    if (controller_ < 0 || ::grantpt(controller_) != 0 || ::unlockpt(controller_) != 0) return;
    const winsize size{.ws_row = 24, .ws_col = columns, .ws_xpixel = 0, .ws_ypixel = 0};
    const char* name = ::ptsname(controller_);
    if (name != nullptr && ::ioctl(controller_, TIOCSWINSZ, &size) == 0) file_ = std::fopen(name, "w");
  }
  ~PseudoTerminal() {
    if (file_ != nullptr) std::fclose(file_);
    if (controller_ >= 0) ::close(controller_);
  }
  PseudoTerminal(const PseudoTerminal&) = delete;
  PseudoTerminal& operator=(const PseudoTerminal&) = delete;

  std::FILE* file() const { return file_; }

 private:
  int controller_;
  std::FILE* file_ = nullptr;
};

// NO_COLOR takes the colour and leaves the bar.
TEST(ConsoleStyleTest, NoColorIsHonoured) {
  const PseudoTerminal terminal(100);
  if (terminal.file() == nullptr) GTEST_SKIP() << "this machine gives out no pseudo-terminals";
  ::setenv("TERM", "xterm", 1);
  ::unsetenv("NO_COLOR");
  EXPECT_TRUE(ConsoleStyle::detect(terminal.file()).live);
  EXPECT_TRUE(ConsoleStyle::detect(terminal.file()).colour);
  EXPECT_EQ(ConsoleStyle::detect(terminal.file()).columns, 100);
  ::setenv("NO_COLOR", "1", 1);
  EXPECT_TRUE(ConsoleStyle::detect(terminal.file()).live);
  EXPECT_FALSE(ConsoleStyle::detect(terminal.file()).colour);
  ::setenv("TERM", "dumb", 1);
  EXPECT_FALSE(ConsoleStyle::detect(terminal.file()).live);
  ::unsetenv("NO_COLOR");
}

TEST(ConsoleStyleTest, UnderMpirunOnlyTheLauncherKnowsTheTerminal) {
  const PseudoTerminal terminal(0);
  if (terminal.file() == nullptr) GTEST_SKIP() << "this machine gives out no pseudo-terminals";
  ::setenv("TERM", "xterm", 1);
  ::unsetenv("CONCLAVE_COLUMNS");
  EXPECT_FALSE(ConsoleStyle::detect(terminal.file()).live);
  ::setenv("CONCLAVE_COLUMNS", "120", 1);
  EXPECT_TRUE(ConsoleStyle::detect(terminal.file()).live);
  EXPECT_EQ(ConsoleStyle::detect(terminal.file()).columns, 120);
  ::unsetenv("CONCLAVE_COLUMNS");
}

}  // namespace
}  // namespace conclave
