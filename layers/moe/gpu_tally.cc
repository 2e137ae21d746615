#include "layers/moe/gpu_tally.h"

#include <algorithm>
#include <span>

#include "layers/moe/exchange.h"

namespace conclave {

GpuTally::GpuTally(const Context& ctx, std::int64_t experts, std::int64_t top_k)
    : stream_(&ctx.gpu->stream()),
      experts_(experts),
      counts_buffer_({2 * (experts + top_k)}, DType::kInt64, ctx.gpu->device()),
      sums_buffer_({5}, DType::kFloat64, ctx.gpu->device()) {
  auto* count = counts_buffer_.view().data<std::int64_t>();
  counts_ = {.places = top_k,
             .chosen_per_expert = count,
             .kept_per_expert = count + experts,
             .chosen_per_choice = count + 2 * experts,
             .dropped_per_choice = count + 2 * experts + top_k};
  auto* sum = sums_buffer_.view().data<double>();
  sums_ = {.router_entropy_sum = sum,
           .balance_loss_raw = sum + 1,
           .z_loss_raw = sum + 2,
           .importance_loss_raw = sum + 3,
           .load_loss_raw = sum + 4};
}

void GpuTally::move_to(MoeStatistics& statistics, const Exchange& exchange) {
  wait();
  const auto add = [](const std::int64_t* from, std::vector<std::int64_t>& to) {
    for (std::int64_t& sum : to) sum += *from++;
  };
  add(counts_.chosen_per_expert, statistics.chosen_per_expert);
  add(counts_.chosen_per_choice, statistics.chosen_per_choice);
  add(counts_.dropped_per_choice, statistics.dropped_per_choice);
  exchange.add_by_rank(std::span(counts_.kept_per_expert, static_cast<std::size_t>(experts_)),
                       statistics.sent_per_rank);
  statistics.router_entropy_sum += *sums_.router_entropy_sum;
  statistics.balance_loss_raw += *sums_.balance_loss_raw;
  statistics.z_loss_raw += *sums_.z_loss_raw;
  statistics.importance_loss_raw += *sums_.importance_loss_raw;
  statistics.load_loss_raw += *sums_.load_loss_raw;
  std::ranges::fill(counts_buffer_.view().values<std::int64_t>(), 0);
  std::ranges::fill(sums_buffer_.view().values<double>(), 0.0);
}

}  // namespace conclave
