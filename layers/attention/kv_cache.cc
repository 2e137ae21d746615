#include "layers/attention/kv_cache.h"

#include <algorithm>

#include "layers/ops/check_shape.h"

namespace conclave {

KvCache::KvCache(std::int64_t capacity, std::int64_t kv_width)
    : keys_({capacity, kv_width}, DType::kFloat32), values_({capacity, kv_width}, DType::kFloat32) {}

void KvCache::append(ConstTensorView keys, ConstTensorView values) {
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
  std::ranges::copy(keys.values<float>(), keys_.view().rows(length_, length_ + count).data<float>());
  std::ranges::copy(values.values<float>(), values_.view().rows(length_, length_ + count).data<float>());
  length_ += count;
}

}  // namespace conclave
