#include "trainer/metrics/console.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numbers>
#include <string>
#include <string_view>

#include "trainer/metrics/table.h"

namespace conclave {
namespace {

constexpr const char* kForcedBalance = "  FORCED BALANCE (moe.force_balanced)";
constexpr const char* kClearLine = "\r\x1b[K";
constexpr const char* kBold = "1";
constexpr const char* kGreen = "32";
constexpr const char* kYellow = "33";
constexpr const char* kCyan = "36";

std::string_view environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

double bits_per_byte(double nats_per_token) { return nats_per_token / std::numbers::ln2; }

// "850", "97.5k", "1.20M".
std::string short_count(double count) {
  if (count < 1e3) return fmt::format("{:.0f}", count);
  if (count < 1e6) return fmt::format("{:.1f}k", count / 1e3);
  return fmt::format("{:.2f}M", count / 1e6);
}

std::string milliseconds(double ms) {
  return ms < 10 ? fmt::format("{:.2f} ms", ms) : fmt::format("{:.0f} ms", ms);
}

// `prefix` before every line.
std::string prefixed(const std::string& prefix, const std::string& text) {
  if (prefix.empty()) return text;
  std::string result = prefix;
  for (std::size_t i = 0; i < text.size(); ++i) {
    result += text[i];
    if (text[i] == '\n') result += prefix;
  }
  return result;
}

}  // namespace

ConsoleStyle ConsoleStyle::detect(std::FILE* file) {
  ConsoleStyle style;
  // mpirun puts a pseudo-terminal of its own, without a size, between its ranks and whatever reads their
  // output. Only the launcher knows if that is a terminal: launch/mpirun.sh tells its width.
  const int descriptor = ::fileno(file);
  winsize size{};
  const bool is_terminal = ::isatty(descriptor) != 0 && ::ioctl(descriptor, TIOCGWINSZ, &size) == 0;
  int columns = is_terminal ? size.ws_col : 0;
  if (is_terminal && columns == 0) columns = std::atoi(std::string(environment("CONCLAVE_COLUMNS")).c_str());

  style.live = columns > 0 && environment("TERM") != "dumb";
  style.colour = style.live && environment("NO_COLOR").empty();
  if (columns > 0) style.columns = columns;
  return style;
}

std::string step_line(const StepRecord& record, std::int64_t total_steps, bool tokens_are_bytes,
                      std::optional<double> eta_seconds) {
  const std::string total = std::to_string(total_steps);
  std::string line =
      fmt::format("step {:>{}}/{}  loss {:.4f}", record.step, total.size(), total, record.loss);
  if (tokens_are_bytes) line += fmt::format(" ({:.3f} bpb)", bits_per_byte(record.loss));
  line += fmt::format("  lr {:.2e}  grad {:.3f}  {}  {} tok/s", record.lr, record.grad_norm,
                      milliseconds(record.step_ms), short_count(record.tokens_per_second));
  if (!record.expert_load.empty()) {
    line += fmt::format("  load {:.2f}  drop {:.1f}%  exchange {:.1f}%", record.load_imbalance,
                        100 * record.dropped_fraction, 100 * record.exchange_fraction);
  }
  if (record.memory_bytes > 0) line += "  " + format_bytes(static_cast<double>(record.memory_bytes));
  if (record.skipped_steps > 0) line += fmt::format("  skipped {}", record.skipped_steps);
  if (record.failed_saves > 0) line += fmt::format("  saves failed {}", record.failed_saves);
  if (record.force_balanced) line += kForcedBalance;
  if (eta_seconds) line += "  ETA " + format_duration(*eta_seconds);
  return line;
}

std::string evaluation_line(const EvaluationRecord& record) {
  std::string line = fmt::format("eval step {}  held-out loss {:.4f}", record.step, record.eval_loss);
  if (record.mean_squared_error) line += fmt::format("  squared error {:.5f}", *record.mean_squared_error);
  const char* unit = record.masked ? "bits per masked byte" : "bpb";
  if (record.tokens_are_bytes) line += fmt::format(" ({:.3f} {})", record.bits_per_byte, unit);
  for (const SourceEvaluation& source : record.by_source) {
    line += "  " + source.source + " ";
    line += record.tokens_are_bytes
                ? fmt::format("{:.3f}{}", source.bits_per_byte, record.masked ? "" : " bpb")
                : fmt::format("{:.4f}", source.eval_loss);
  }
  if (record.router_accuracy) line += fmt::format("  router accuracy {:.1f}%", 100 * *record.router_accuracy);
  if (record.force_balanced) line += kForcedBalance;
  return line;
}

Console::Console(std::ostream& out, ConsoleStyle style, std::int64_t total_steps, std::int64_t first_step,
                 bool tokens_are_bytes, const std::string& marker)
    : out_(out),
      style_(style),
      total_steps_(total_steps),
      step_(first_step),
      tokens_are_bytes_(tokens_are_bytes),
      line_prefix_(marker.empty() ? "" : fmt::format("[{}] ", marker)) {}

Console::~Console() { clear_bar(); }

void Console::progress(std::int64_t step, double step_seconds) {
  // The mean forgets slowly: the ETA follows a machine that slows down and still hardly jumps.
  constexpr double kWeight = 0.05;
  step_ = step;
  mean_step_seconds_ =
      has_mean_ ? mean_step_seconds_ + kWeight * (step_seconds - mean_step_seconds_) : step_seconds;
  has_mean_ = true;

  constexpr auto kRedrawInterval = std::chrono::milliseconds(100);
  const auto now = std::chrono::steady_clock::now();
  if (style_.live && (!bar_is_drawn_ || now - last_drawn_ >= kRedrawInterval)) {
    last_drawn_ = now;
    draw_bar();
  }
}

void Console::write(const StepRecord& record) {
  step_ = record.step;
  print(step_line(record, total_steps_, tokens_are_bytes_, eta_seconds()));
}

void Console::write(const EvaluationRecord& record) { print(coloured(kGreen, evaluation_line(record))); }

void Console::message(const std::string& text) { print(text); }

void Console::warning(const std::string& text) { print(coloured(kYellow, "warning: ") + text); }

void Console::print(const std::string& text) {
  const bool redraw = bar_is_drawn_;
  clear_bar();
  out_ << prefixed(line_prefix_, text) << '\n';
  if (redraw) draw_bar();
  out_.flush();
}

void Console::draw_bar() {
  const double done = total_steps_ > 0 ? static_cast<double>(step_) / static_cast<double>(total_steps_) : 1.0;
  std::string suffix = fmt::format(" {:3.0f}%  {}/{}", 100 * done, step_, total_steps_);
  if (const auto eta = eta_seconds()) suffix += "  ETA " + format_duration(*eta);
  // "[" + bar + "]" + suffix must leave the last column free, or some terminals wrap.
  const int room = std::clamp(style_.columns - 3 - static_cast<int>(suffix.size()), 0, 60);
  const int filled = std::clamp(static_cast<int>(std::lround(done * room)), 0, room);
  const std::string bar = std::string(static_cast<std::size_t>(filled), '=') +
                          std::string(static_cast<std::size_t>(room - filled), ' ');
  out_ << kClearLine << '[' << coloured(kCyan, bar) << ']' << coloured(kBold, suffix) << std::flush;
  bar_is_drawn_ = true;
}

void Console::clear_bar() {
  if (!bar_is_drawn_) return;
  out_ << kClearLine << std::flush;
  bar_is_drawn_ = false;
}

std::optional<double> Console::eta_seconds() const {
  if (!has_mean_) return std::nullopt;
  return mean_step_seconds_ * static_cast<double>(std::max<std::int64_t>(total_steps_ - step_, 0));
}

std::string Console::coloured(const char* code, const std::string& text) const {
  return style_.colour ? fmt::format("\x1b[{}m{}\x1b[0m", code, text) : text;
}

}  // namespace conclave
