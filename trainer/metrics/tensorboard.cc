#include "trainer/metrics/tensorboard.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <chrono>

#include "comm/base/error.h"
#include "trainer/metrics/crc32c.h"

namespace conclave {
namespace {

static_assert(std::endian::native == std::endian::little, "event files store little-endian numbers");

double seconds_since_1970() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string host_name() {
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0) return "unknown";
  return name.data();
}

template <class T>
std::string little_endian(T number) {
  return {reinterpret_cast<const char*>(&number), sizeof number};
}

// u64 length | masked CRC of the length | bytes | masked CRC of the bytes.
std::string framed(const std::string& bytes) {
  const std::string length = little_endian<std::uint64_t>(bytes.size());
  return length + little_endian(masked_crc(crc32c(length))) + bytes +
         little_endian(masked_crc(crc32c(bytes)));
}

void add_scalar(events::Event& event, const std::string& tag, double scalar) {
  events::Summary::Value& value = *event.mutable_summary()->add_value();
  value.set_tag(tag);
  value.set_simple_value(static_cast<float>(scalar));
}

// Expert e is the bucket (e - 0.5, e + 0.5].
void add_expert_load(events::Event& event, const std::string& tag, const std::vector<std::int64_t>& load) {
  events::Summary::Value& value = *event.mutable_summary()->add_value();
  value.set_tag(tag);
  events::HistogramProto& histogram = *value.mutable_histo();
  histogram.set_min(-0.5);
  histogram.set_max(static_cast<double>(load.size()) - 0.5);
  // TensorBoard starts the first bucket at -infinity; an empty one before it gives expert 0 its lower edge.
  histogram.add_bucket_limit(-0.5);
  histogram.add_bucket(0);
  double choices = 0;
  double sum = 0;
  double sum_squares = 0;
  for (std::size_t expert = 0; expert < load.size(); ++expert) {
    const auto count = static_cast<double>(load[expert]);
    const auto id = static_cast<double>(expert);
    histogram.add_bucket_limit(id + 0.5);
    histogram.add_bucket(count);
    choices += count;
    sum += count * id;
    sum_squares += count * id * id;
  }
  histogram.set_num(choices);
  histogram.set_sum(sum);
  histogram.set_sum_squares(sum_squares);
}

}  // namespace

TensorBoardWriter::TensorBoardWriter(const std::filesystem::path& run_dir, std::int64_t resumed_step) {
  const std::filesystem::path directory = run_dir / "tensorboard";
  std::error_code failure;
  std::filesystem::create_directories(directory, failure);
  CONCLAVE_CHECK(!failure, "can't create {}: {}", directory.string(), failure.message());
  const auto now = static_cast<long long>(seconds_since_1970());
  path_ = directory / fmt::format("events.out.tfevents.{:010}.{}.{}", now, host_name(), ::getpid());
  stream_.open(path_, std::ios::binary | std::ios::app);
  CONCLAVE_CHECK(stream_.good(), "can't open {} for writing", path_.string());

  events::Event first;
  first.set_file_version("brain.Event:2");
  write_event(std::move(first));
  if (resumed_step > 0) {
    events::Event start;
    start.set_step(resumed_step + 1);
    start.mutable_session_log()->set_status(events::SessionLog::START);
    write_event(std::move(start));
  }
}

void TensorBoardWriter::write(const StepRecord& record) {
  events::Event event;
  event.set_step(record.step);
  add_scalar(event, "train/loss", record.loss);
  add_scalar(event, "train/lr", record.lr);
  add_scalar(event, "train/grad_norm", record.grad_norm);
  add_scalar(event, "train/tokens", static_cast<double>(record.tokens));
  add_scalar(event, "performance/step_ms", record.step_ms);
  add_scalar(event, "performance/tokens_per_second", record.tokens_per_second);
  add_scalar(event, "performance/exchange_fraction", record.exchange_fraction);
  add_scalar(event, "performance/imbalance_tax", record.imbalance_tax);
  add_scalar(event, "performance/memory_bytes", static_cast<double>(record.memory_bytes));
  const bool has_experts = !record.expert_load.empty();
  if (has_experts) {
    add_scalar(event, "moe/balance_loss", record.balance_loss);
    add_scalar(event, "moe/balance_loss_raw", record.balance_loss_raw);
    add_scalar(event, "moe/z_loss", record.z_loss);
    if (record.importance_loss != 0) add_scalar(event, "moe/importance_loss", record.importance_loss);
    if (record.load_loss != 0) add_scalar(event, "moe/load_loss", record.load_loss);
    add_scalar(event, "moe/supervision_loss", record.supervision_loss);
    if (record.force_balanced) add_scalar(event, "moe/FORCED_BALANCE", 1);
    add_scalar(event, "moe/load_imbalance", record.load_imbalance);
    add_scalar(event, "moe/rank_imbalance", record.rank_imbalance);
    add_scalar(event, "moe/dropped_fraction", record.dropped_fraction);
    add_scalar(event, "moe/dead_experts", record.dead_experts);
    add_scalar(event, "moe/load_entropy", record.load_entropy);
    add_scalar(event, "moe/router_entropy", record.router_entropy);
  }
  for (std::size_t k = 0; k < record.dropped_by_choice.size(); ++k) {
    add_scalar(event, fmt::format("moe/dropped_fraction/choice_{}", k), record.dropped_by_choice[k]);
  }
  for (std::size_t layer = 0; layer < record.dropped_by_layer.size(); ++layer) {
    add_scalar(event, fmt::format("moe/dropped_fraction/layer_{}", layer), record.dropped_by_layer[layer]);
  }
  for (std::size_t layer = 0; layer < record.load_imbalance_by_layer.size(); ++layer) {
    add_scalar(event, fmt::format("moe/load_imbalance/layer_{}", layer),
               record.load_imbalance_by_layer[layer]);
  }
  for (std::size_t layer = 0; layer < record.expert_load.size(); ++layer) {
    add_expert_load(event, fmt::format("moe/expert_load/layer_{}", layer), record.expert_load[layer]);
  }
  write_event(std::move(event));
}

void TensorBoardWriter::write(const EvaluationRecord& record) {
  events::Event event;
  event.set_step(record.step);
  add_scalar(event, "eval/loss", record.eval_loss);
  const std::string bits = record.masked ? "eval/bits_per_masked_byte" : "eval/bits_per_byte";
  if (record.tokens_are_bytes) add_scalar(event, bits, record.bits_per_byte);
  if (record.mean_squared_error) add_scalar(event, "eval/mean_squared_error", *record.mean_squared_error);
  if (record.router_accuracy) add_scalar(event, "eval/router_accuracy", *record.router_accuracy);
  for (const SourceEvaluation& source : record.by_source) {
    if (source.router_accuracy)
      add_scalar(event, "eval/router_accuracy/" + source.source, *source.router_accuracy);
    add_scalar(event, "eval/loss/" + source.source, source.eval_loss);
    if (record.tokens_are_bytes) add_scalar(event, bits + "/" + source.source, source.bits_per_byte);
  }
  write_event(std::move(event));
}

void TensorBoardWriter::write_event(events::Event event) {
  event.set_wall_time(seconds_since_1970());
  stream_ << framed(event.SerializeAsString()) << std::flush;
  CONCLAVE_CHECK(stream_.good(), "can't write to {} (is the disk full?)", path_.string());
}

}  // namespace conclave
