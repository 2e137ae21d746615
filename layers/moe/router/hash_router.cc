#include "layers/moe/router/hash_router.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <utility>

#include "layers/cuda/arguments.h"
#include "layers/cuda/moe_kernels.h"
#include "layers/ops/fill_zeros.h"
#include "layers/tensor/philox.h"

namespace conclave {
namespace {

// Brings `values` into a random order, of which only the first `count` places are used (Fisher and Yates), by
// the numbers of `random` from `index` on.
void shuffle(std::span<std::int32_t> values, std::size_t count, const RandomStream& random,
             std::uint64_t index) {
  for (std::size_t i = 0; i < count; ++i)
    std::swap(values[i], values[i + random.bits(index + i) % (values.size() - i)]);
}

}  // namespace

std::vector<std::int32_t> hash_table(std::uint64_t seed, const std::string& name, std::int64_t vocab_size,
                                     std::int64_t experts, std::int64_t top_k) {
  std::vector<std::int32_t> deck(static_cast<std::size_t>(vocab_size));
  std::iota(deck.begin(), deck.end(), 0);
  shuffle(deck, deck.size(), RandomStream(seed, name + "/hash"), 0);

  const RandomStream offset_random(seed, name + "/hash_offsets");
  std::vector<std::int32_t> offsets(static_cast<std::size_t>(experts));  // the first K are those of the round
  std::iota(offsets.begin(), offsets.end(), 0);
  std::vector<std::int32_t> table(static_cast<std::size_t>(vocab_size * top_k));
  for (std::int64_t place = 0; place < vocab_size; ++place) {
    if (place % experts == 0)
      shuffle(offsets, static_cast<std::size_t>(top_k), offset_random, static_cast<std::uint64_t>(place));
    const std::int64_t id = deck[static_cast<std::size_t>(place)];
    for (std::int64_t k = 0; k < top_k; ++k) {
      table[static_cast<std::size_t>(id * top_k + k)] =
          static_cast<std::int32_t>((place + offsets[static_cast<std::size_t>(k)]) % experts);
    }
  }
  return table;
}

HashRouter::HashRouter(const config::Experiment& experiment, const std::string& name)
    : name_(name),
      top_k_(experiment.moe().top_k()),
      vocab_size_(experiment.model().vocab_size()),
      routed_scale_(static_cast<float>(experiment.moe().routed_scale())),
      table_(hash_table(experiment.run().seed(), name, vocab_size_, experiment.moe().experts(), top_k_)) {}

Routing HashRouter::forward(Context& ctx, ConstTensorView x, MoeStatistics& statistics) {
  const std::int64_t T = x.extent(0);
  CONCLAVE_CHECK_EQ(ctx.token_ids.elements(), T, "token ids of the hash router, one for each row of x");
  const TensorView experts = ctx.arena->allocate({T, top_k_}, DType::kInt32);
  const TensorView weights = ctx.arena->allocate({T, top_k_});
  const std::int32_t* ids = ctx.token_ids.data<std::int32_t>();
  for (std::int64_t t = 0; t < T; ++t) {
    CONCLAVE_CHECK(ctx.is_padding(t) || (ids[t] >= 0 && ids[t] < vocab_size_),
                   "the hash router found token id {} in a vocabulary of {}", ids[t], vocab_size_);
  }
  if (ctx.on_gpu()) {
    look_up_on_gpu(ctx, experts, weights);
  } else {
    look_up(ctx, experts, weights);
  }
  // Of the distribution 1 / K over the token's experts.
  const std::int64_t routed = T - ctx.padding_tokens();
  statistics.router_entropy_sum += static_cast<double>(routed) * std::log(static_cast<double>(top_k_));
  input_shape_ = x.shape();
  return {experts, weights};
}

void HashRouter::look_up(const Context& ctx, TensorView experts, TensorView weights) const {
  const std::int32_t* ids = ctx.token_ids.data<std::int32_t>();
  for (std::int64_t t = 0; t < experts.extent(0); ++t) {
    std::int32_t* experts_of_token = experts.data<std::int32_t>() + t * top_k_;
    if (ctx.is_padding(t)) {
      std::fill_n(experts_of_token, top_k_, kNoExpert);
    } else {
      std::copy_n(table_.begin() + ids[t] * top_k_, top_k_, experts_of_token);
    }
    std::fill_n(weights.data<float>() + t * top_k_, top_k_, ctx.is_padding(t) ? 0.0F : weight());
  }
}

void HashRouter::look_up_on_gpu(Context& ctx, TensorView experts, TensorView weights) const {
  const Arena::Mark scratch(*ctx.arena);
  cuda::look_up_experts(cuda::stream_of(ctx), table_on_gpu_.view().data<std::int32_t>(),
                        cuda::on_gpu<std::int32_t>(ctx, ctx.token_ids), cuda::padding_on_gpu(ctx), weight(),
                        experts.data<std::int32_t>(), weights.data<float>(), experts.extent(0), top_k_);
}

void HashRouter::renew_copies(Context& ctx) {
  if (table_on_gpu_is_current_) return;
  if (table_on_gpu_.view().raw() == nullptr)
    table_on_gpu_ = Buffer({vocab_size_, top_k_}, DType::kInt32, ctx.gpu->device());
  ctx.gpu->staging().upload(table_on_gpu_.view().raw(), table_.data(), table_.size() * sizeof(std::int32_t));
  table_on_gpu_is_current_ = true;
}

void HashRouter::collect_state(std::vector<ShardedTensor>& state) {
  table_on_gpu_is_current_ = false;  // a checkpoint may bring another one
  const TensorView table = tensor_view(std::span(table_), {vocab_size_, top_k_});
  state.push_back({name_ + ".table", table.shape(), Sharding::kReplicated, {0, vocab_size_}, table});
}

TensorView HashRouter::backward(Context& ctx, ConstTensorView) {
  const TensorView dx = ctx.arena->allocate(input_shape_);
  fill_zeros(ctx, dx);
  return dx;
}

}  // namespace conclave
