// The keys and values of one sequence's past positions, for generation.
#pragma once

#include <cstdint>

#include "layers/tensor/arena.h"

namespace conclave {

class KvCache {
 public:
  // Room for `capacity` positions of Hkv * hd keys and as many values.
  KvCache(std::int64_t capacity, std::int64_t kv_width);

  // Appends N positions; keys, values [N, Hkv hd]. Throws Error when they don't fit:
  // the cache is then unchanged.
  void append(ConstTensorView keys, ConstTensorView values);
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
