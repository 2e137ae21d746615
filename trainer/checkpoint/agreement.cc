#include "trainer/checkpoint/agreement.h"

#include <cstdint>
#include <numeric>
#include <span>

namespace conclave {
namespace {

BufferView as_buffer(std::string& text) {
  return {text.data(), static_cast<std::int64_t>(text.size()), DType::kUInt8, {}};
}
ConstBufferView as_buffer(std::string_view text) {
  return {text.data(), static_cast<std::int64_t>(text.size()), DType::kUInt8, {}};
}

BufferView as_buffer(std::int64_t& number) { return {&number, 1, DType::kInt64, {}}; }

}  // namespace

std::string first_failure(Communicator& world, const std::string& own_failure) {
  std::int64_t first = own_failure.empty() ? world.size() : world.rank();
  world.all_reduce(as_buffer(first), ReduceOp::kMin).wait();
  if (first == world.size()) return "";
  const std::string message = broadcast_text(world, own_failure, static_cast<int>(first));
  return world.size() == 1 ? message : "rank " + std::to_string(first) + ": " + message;
}

std::vector<std::string> gather_on_rank_0(Communicator& world, std::string_view bytes) {
  const auto ranks = static_cast<std::size_t>(world.size());
  auto own_size = static_cast<std::int64_t>(bytes.size());
  std::vector<std::int64_t> sizes(ranks);
  world.all_gather(as_buffer(own_size), buffer_view(std::span(sizes))).wait();

  std::vector<std::int64_t> send_counts(ranks, 0);
  send_counts[0] = own_size;
  const bool receives = world.rank() == 0;
  const std::vector<std::int64_t> recv_counts = receives ? sizes : std::vector<std::int64_t>(ranks, 0);
  std::string gathered(std::accumulate(recv_counts.begin(), recv_counts.end(), std::size_t{0}), '\0');
  world.all_to_all_v(as_buffer(bytes), send_counts, as_buffer(gathered), recv_counts).wait();

  std::vector<std::string> texts;
  std::size_t begin = 0;
  for (std::size_t rank = 0; receives && rank < ranks; ++rank) {
    texts.push_back(gathered.substr(begin, static_cast<std::size_t>(sizes[rank])));
    begin += static_cast<std::size_t>(sizes[rank]);
  }
  return texts;
}

std::string broadcast_text(Communicator& world, std::string text, int root) {
  auto size = static_cast<std::int64_t>(text.size());
  world.broadcast(as_buffer(size), root).wait();
  text.resize(static_cast<std::size_t>(size));
  world.broadcast(as_buffer(text), root).wait();
  return text;
}

}  // namespace conclave
