// The keys and values of one sequence's past positions, for generation.
#pragma once

#include <cstdint>

#include "layers/context.h"

namespace conclave {

class KvCache {
 public:
  // Room for `capacity` positions of Hkv * hd keys and as many values, in the memory of `device`.
  KvCache(std::int64_t capacity, std::int64_t kv_width, Device device = {});

  // Appends N positions; keys, values [N, Hkv hd], on the device that ctx computes on. Throws Error when they
  // don't fit: the cache is then unchanged.
  void append(const Context& ctx, ConstTensorView keys, ConstTensorView values);
  void clear() { length_ = 0; }

  std::int64_t length() const { return length_; }  // positions held
  std::int64_t capacity() const { return keys_.view().extent(0); }
  ConstTensorView keys() const { return keys_.view().rows(0, length_); }      // [length, Hkv hd]
  ConstTensorView values() const { return values_.view().rows(0, length_); }  // [length, Hkv hd]

 private:
  Buffer keys_;
  Buffer values_;
  std::int64_t length_ = 0;
};

}  // namespace conclave
