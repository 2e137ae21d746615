#include "trainer/inspect/routing_recorder.h"

#include <cstring>
#include <map>
#include <string_view>

#include "comm/base/error.h"
#include "trainer/checkpoint/agreement.h"

namespace conclave {
namespace {

// Numbers, and lists of numbers after their length, side by side.
template <class T>
void pack_list(std::string& bytes, const std::vector<T>& values) {
  const auto count = static_cast<std::int64_t>(values.size());
  bytes.append(reinterpret_cast<const char*>(&count), sizeof count);
  bytes.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}
void pack(std::string& bytes, std::int64_t number) {
  bytes.append(reinterpret_cast<const char*>(&number), sizeof number);
}

std::int64_t unpack(std::string_view& bytes) {
  std::int64_t number = 0;
  std::memcpy(&number, bytes.data(), sizeof number);
  bytes.remove_prefix(sizeof number);
  return number;
}
template <class T>
std::vector<T> unpack_list(std::string_view& bytes) {
  std::vector<T> values(static_cast<std::size_t>(unpack(bytes)));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
  bytes.remove_prefix(values.size() * sizeof(T));
  return values;
}

void pack_trace(std::string& bytes, const RoutingTrace& trace) {
  pack_list(bytes, trace.tokens);
  for (const LayerRouting& layer : trace.layers) {
    pack(bytes, layer.places);
    pack_list(bytes, layer.chosen);
    pack_list(bytes, layer.weights);
    pack_list(bytes, layer.entropy);
  }
}

template <class T>
void move_to_end(std::vector<T>& all, std::vector<T> values) {
  all.insert(all.end(), values.begin(), values.end());
}

// The input ids; kNoToken for padding.
std::vector<std::int32_t> token_ids(const data::MicroBatch& batch) {
  std::vector<std::int32_t> ids = batch.tokens;
  for (std::size_t t = 0; t < batch.padding.size(); ++t) {
    if (batch.padding[t] != 0) ids[t] = kNoToken;
  }
  return ids;
}

void unpack_trace_onto(RoutingTrace& trace, std::string_view& bytes) {
  move_to_end(trace.tokens, unpack_list<std::int32_t>(bytes));
  for (LayerRouting& layer : trace.layers) {
    layer.places = unpack(bytes);
    move_to_end(layer.chosen, unpack_list<std::int32_t>(bytes));
    move_to_end(layer.weights, unpack_list<float>(bytes));
    move_to_end(layer.entropy, unpack_list<float>(bytes));
  }
}

}  // namespace

RoutingRecorder::RoutingRecorder(const config::Experiment& experiment, const Model& model,
                                 const data::TrainingData& dataset, Communicator& world)
    : directory_(model.moe_layers().empty() ? "" : experiment.log().routing()),
      every_(experiment.log().routing_every()),
      global_batch_(experiment.train().global_batch()),
      experiment_(experiment),
      model_(model),
      dataset_(dataset),
      world_(world) {}

bool RoutingRecorder::records(std::int64_t step) const {
  return !directory_.empty() && (step + 1) % every_ == 0;
}

void RoutingRecorder::after_forward(const BatchPosition& position, const data::MicroBatch& batch) {
  if (!records(position.step) || position.sequences == 0) return;
  RoutingTrace trace = empty_trace(model_, experiment_);
  append_last_forward(model_, token_ids(batch), 0, trace);
  std::string part;
  pack_trace(part, trace);
  pack(parts_, position.first_sequence);
  pack(parts_, static_cast<std::int64_t>(part.size()));
  parts_ += part;
}

std::string RoutingRecorder::end_step(std::int64_t step) {
  if (!records(step)) return "";
  const std::vector<std::string> of_ranks = gather_on_rank_0(world_, std::exchange(parts_, {}));
  const std::filesystem::path path = routing_record_path(directory_, step + 1);
  std::string failure;
  if (world_.rank() == 0) {
    try {
      std::filesystem::create_directories(directory_);
      write_routing_record(path, joined(step, of_ranks));
    } catch (const std::exception& error) {
      failure = error.what();
    }
  }
  failure = broadcast_text(world_, failure, 0);
  if (failure.empty()) return "";
  return fmt::format("the routing record {} was not written: {}; training goes on", path.string(), failure);
}

RoutingRecord RoutingRecorder::joined(std::int64_t step,
                                      const std::vector<std::string>& parts_of_ranks) const {
  std::map<std::int64_t, std::string_view> by_first_sequence;
  for (const std::string& of_rank : parts_of_ranks) {
    for (std::string_view rest = of_rank; !rest.empty();) {
      const std::int64_t first_sequence = unpack(rest);
      const auto bytes = static_cast<std::size_t>(unpack(rest));
      by_first_sequence[first_sequence] = rest.substr(0, bytes);
      rest.remove_prefix(bytes);
    }
  }
  RoutingRecord record;
  record.step = step + 1;
  record.sequence_length = dataset_.sequence_length();
  record.trace = empty_trace(model_, experiment_);
  for (auto& [first_sequence, part] : by_first_sequence) unpack_trace_onto(record.trace, part);
  CONCLAVE_CHECK_EQ(record.trace.size(), global_batch_ * record.sequence_length,
                    "tokens of the global batch");

  record.trace.sources = dataset_.source_names();
  for (std::int64_t i = 0; i < global_batch_; ++i) {
    const std::int32_t source = dataset_.source_of_sample(step * global_batch_ + i);
    record.trace.source_of_token.resize(
        record.trace.source_of_token.size() + static_cast<std::size_t>(record.sequence_length), source);
  }
  return record;
}

}  // namespace conclave
