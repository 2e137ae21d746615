#include "layers/attention/kv_cache.h"

#include <algorithm>

#include "comm/cuda/memory.h"
#include "layers/ops/check_shape.h"

namespace conclave {
namespace {

void copy_rows(const Context& ctx, ConstTensorView from, TensorView to) {
  if (ctx.on_gpu()) {
    cuda::copy(ctx.gpu->stream(), to.raw(), from.raw(), from.values<float>().size_bytes());
  } else {
    std::ranges::copy(from.values<float>(), to.data<float>());
  }
}

}  // namespace

KvCache::KvCache(std::int64_t capacity, std::int64_t kv_width, Device device)
    : keys_({capacity, kv_width}, DType::kFloat32, device),
      values_({capacity, kv_width}, DType::kFloat32, device) {}

void KvCache::append(const Context& ctx, ConstTensorView keys, ConstTensorView values) {
  check_matrix(keys, "keys of a KV cache");
  const std::int64_t count = keys.extent(0);
  const Shape expected{count, keys_.view().extent(1)};
  check_shape(keys, expected, "keys of a KV cache");
  check_shape(values, expected, "values of a KV cache");
  CONCLAVE_CHECK(
      length_ + count <= capacity(),
      "the KV cache is full: it holds {} of {} positions and can't take {} more; make it larger (up to "
      "model.max_seq) or generate less",
      length_, capacity(), count);
  copy_rows(ctx, keys, keys_.view().rows(length_, length_ + count));
  copy_rows(ctx, values, values_.view().rows(length_, length_ + count));
  length_ += count;
}

}  // namespace conclave
